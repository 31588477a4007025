"""The connector's decisions, with substitutes for vLLM's four names that it needs: vLLM has its own environment.

`benchmarks/engines/vllm_prefix.py` runs it in vLLM and compares its answers with PEFT's.
"""

from __future__ import annotations

import enum
import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from made_adapters import export_prefixes, saved
from softprompts.errors import UserError
from softprompts.export.kv_cache.prefixes import read_prefixes, read_states

import pytest
import torch
from peft import PrefixTuningConfig
from transformers import AutoConfig, AutoModelForCausalLM

BASE = "vllm.distributed.kv_transfer.kv_connector.v1.base"
UTILS = "vllm.model_executor.models.utils"
MODULE = "softprompts.export.kv_cache.vllm_connector"
BLOCK = 4
TEXT = [20, 21, 22]


class ConnectorBase:
    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        self._vllm_config, self._kv_transfer_config = vllm_config, vllm_config.kv_transfer_config
        self.metadata: Any = None

    def _get_connector_metadata(self) -> Any:
        return self.metadata


class Role(enum.Enum):
    SCHEDULER = 0
    WORKER = 1


@dataclass
class TransferResults:
    finished_sending: set[str] = field(default_factory=set)
    finished_recving: set[str] = field(default_factory=set)
    failed_recving: set[str] = field(default_factory=set)


@dataclass
class FullAttentionSpec:
    block_size: int = BLOCK
    num_kv_heads: int = 2
    head_size: int = 8
    sliding_window: int | None = None


class Attention:
    """A vLLM layer with a cache whose layout only its own writer knows: here values come before keys."""

    def __init__(self) -> None:
        self.impl, self.kv_cache = self, torch.zeros(10 * BLOCK, 2, 2, 8)

    def do_kv_cache_update(self, layer: Any, key: Any, value: Any, kv_cache: Any, slots: Any) -> None:
        assert layer is self
        kv_cache[slots] = torch.stack((value, key), dim=1)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The connector's module with substitutes for vLLM's modules."""
    base, utils = ModuleType(BASE), ModuleType(UTILS)
    names = {"KVConnectorBase_V1": ConnectorBase, "KVConnectorMetadata": object, "KVConnectorRole": Role}
    for name, value in (names | {"KVConnectorTransferResults": TransferResults}).items():
        setattr(base, name, value)
    utils.extract_layer_index = lambda name: int(name.split(".")[2])  # type: ignore[attr-defined]
    for name in (BASE, UTILS):
        for end in range(1, name.count(".") + 1):
            package = ".".join(name.split(".")[:end])
            monkeypatch.setitem(sys.modules, package, ModuleType(package))
    monkeypatch.setitem(sys.modules, BASE, base)
    monkeypatch.setitem(sys.modules, UTILS, utils)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    yield importlib.import_module(MODULE)
    sys.modules.pop(MODULE, None)


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """Exported prefixes: `long` fills two blocks and a half, `short` two."""
    for name, tokens in (("long", 10), ("short", 8)):
        saved(tiny_model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=tokens), tmp_path / name)
    adapters = {name: tmp_path / name for name in ("long", "short")}
    export_prefixes(tiny_model, tmp_path / "exports", adapters, reserved=[7, 8, 9])
    return tmp_path / "exports"


def configs(model: Path, folder: Path | None) -> tuple[Any, Any]:
    """Return vLLM's two configs for the tiny model."""
    names = [f"model.layers.{number}.self_attn.attn" for number in range(2)]
    engine = SimpleNamespace(
        kv_transfer_config=SimpleNamespace(
            get_from_extra_config=lambda key, default: folder and {"prefixes": str(folder)}.get(key, default),
            kv_load_failure_policy="fail",
        ),
        parallel_config=SimpleNamespace(
            tensor_parallel_size=1, pipeline_parallel_size=1, decode_context_parallel_size=1
        ),
        speculative_config=None,
        model_config=SimpleNamespace(
            hf_config=AutoConfig.from_pretrained(model),
            model=str(model),
            revision=None,
            max_model_len=256,
            dtype=torch.float32,
        ),
        compilation_config=SimpleNamespace(static_forward_context={name: Attention() for name in names}),
    )
    group = SimpleNamespace(kv_cache_spec=FullAttentionSpec(), layer_names=names)
    return engine, SimpleNamespace(kv_cache_groups=[group])


def request(ids: Any, **changes: Any) -> Any:
    settings = {"request_id": "r", "skip_reading_prefix_cache": False} | changes
    return SimpleNamespace(prompt_token_ids=ids and list(ids), num_tokens=len(ids or ()), **settings)


def blocks(*ids: int) -> Any:
    return SimpleNamespace(get_block_ids=lambda: (list(ids),))


def scheduler(module: Any, model: Path, folder: Path) -> Any:
    return module.PrefixConnector(*_with_role(configs(model, folder), Role.SCHEDULER))


def _with_role(both: tuple[Any, Any], role: Role) -> tuple[Any, Role, Any]:
    return both[0], role, both[1]


@pytest.mark.parametrize("name", ["long", "short"])
@pytest.mark.parametrize("cached", [0, BLOCK])
def test_what_the_scheduler_matches_the_worker_writes(
    module: Any, tiny_model: Path, folder: Path, name: str, cached: int
) -> None:
    prefix = next(one for one in read_prefixes(folder) if one.name == name)
    connector = scheduler(module, tiny_model, folder)
    asking = request([*prefix.placeholder_ids, *TEXT])
    connector.on_new_request(asking)
    matched = connector.get_num_new_matched_tokens(asking, cached)
    assert matched == (prefix.tokens - cached, False)
    connector.update_state_after_alloc(asking, blocks(5, 2, 7, 1), matched[0])
    step = connector.build_connector_meta(None)
    assert not connector.build_connector_meta(None).loads  # each load once

    engine, cache = configs(tiny_model, folder)
    worker = module.PrefixConnector(*_with_role((engine, cache), Role.WORKER))
    layers = engine.compilation_config.static_forward_context
    worker.register_kv_caches({name: layer.kv_cache for name, layer in layers.items()})
    worker.metadata = step
    worker.start_load_kv(None)
    slots = [block * BLOCK + place for block in (5, 2, 7) for place in range(BLOCK)][cached : prefix.tokens]
    keys, values = read_states(prefix, folder)
    for number, layer in enumerate(layers.values()):
        assert torch.equal(layer.kv_cache[slots, 1], keys[number, cached:])
        assert torch.equal(layer.kv_cache[slots, 0], values[number, cached:])
        others = [slot for slot in range(len(layer.kv_cache)) if slot not in slots]
        assert not layer.kv_cache[others].any()


def test_nothing_is_loaded_for_other_requests_and_for_what_the_prefix_cache_holds(
    module: Any, tiny_model: Path, folder: Path
) -> None:
    connector = scheduler(module, tiny_model, folder)
    prefix = read_prefixes(folder)[1]
    for ids, cached in ((TEXT, 0), (None, 0), ([*prefix.placeholder_ids, *TEXT], prefix.tokens)):
        asking = request(ids)
        connector.on_new_request(asking)
        assert connector.get_num_new_matched_tokens(asking, cached) == (0, False)
        connector.update_state_after_alloc(asking, blocks(5, 2, 7, 1), 0)
        step = connector.build_connector_meta(None)
        assert (step.loads, step.refused) == ([], set())
        assert connector.request_finished(asking, []) == (False, None)


def test_a_preempted_request_loads_again_and_a_finished_one_is_forgotten(
    module: Any, tiny_model: Path, folder: Path
) -> None:
    connector = scheduler(module, tiny_model, folder)
    prefix = read_prefixes(folder)[0]
    asking = request([*prefix.placeholder_ids, *TEXT])
    connector.on_new_request(asking)
    for ids in ((1, 2, 3, 4), (4, 3, 2, 1)):
        assert connector.get_num_new_matched_tokens(asking, 0) == (prefix.tokens, False)
        connector.update_state_after_alloc(asking, blocks(*ids), prefix.tokens)
        (load,) = connector.build_connector_meta(None).loads
        assert load.slots[0] == ids[0] * BLOCK
    connector.request_finished(asking, [])
    assert connector.get_num_new_matched_tokens(asking, 0) == (0, False)


@pytest.mark.parametrize("logprobs", [False, True])
def test_a_prompt_that_cannot_be_served_fails_before_anything_is_computed(
    module: Any, tiny_model: Path, folder: Path, logprobs: bool, caplog: pytest.LogCaptureFixture
) -> None:
    connector = scheduler(module, tiny_model, folder)
    prefix = read_prefixes(folder)[0]
    ids = [*prefix.placeholder_ids, *TEXT] if logprobs else [7] * 10
    asking = request(ids, skip_reading_prefix_cache=logprobs)
    connector.on_new_request(asking)
    assert ("prompt_logprobs" if logprobs else "are unknown") in caplog.text
    assert not asking.skip_reading_prefix_cache  # vLLM would find no match, and compute the placeholders
    assert connector.get_num_new_matched_tokens(asking, 4) == (len(ids) - 4, True)
    connector.update_state_after_alloc(asking, blocks(1, 2, 3, 4), len(ids) - 4)
    connector.metadata = connector.build_connector_meta(None)
    assert not connector.metadata.loads
    assert connector.get_transfer_results(set()) == TransferResults(finished_recving={"r"}, failed_recving={"r"})
    connector.request_finished(asking, [])
    connector.metadata = connector.build_connector_meta(None)
    assert not connector.get_transfer_results(set()).failed_recving


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e, c: setattr(e.parallel_config, "tensor_parallel_size", 2), "tensor_parallel_size: .* found 2"),
        (lambda e, c: setattr(e.parallel_config, "pipeline_parallel_size", 2), "pipeline_parallel_size"),
        (lambda e, c: setattr(e, "speculative_config", object()), "speculative_config"),
        (lambda e, c: setattr(e.kv_transfer_config, "kv_load_failure_policy", "recompute"), "kv_load_failure_policy"),
        (lambda e, c: setattr(c.kv_cache_groups[0].kv_cache_spec, "sliding_window", 64), "full attention"),
        (lambda e, c: c.kv_cache_groups.append(c.kv_cache_groups[0]), "full attention"),
        (lambda e, c: setattr(e.model_config, "max_model_len", 10), "no room after the prefix long"),
        (lambda e, c: setattr(c.kv_cache_groups[0].kv_cache_spec, "head_size", 16), "its head size is 8, but .* 16"),
        (lambda e, c: c.kv_cache_groups[0].layer_names.pop(), "its layers is 2, but .* 1"),
    ],
)
def test_an_engine_that_a_prefix_does_not_fit_is_refused_at_start(
    module: Any, tiny_model: Path, folder: Path, change: Any, message: str
) -> None:
    engine, cache = configs(tiny_model, folder)
    change(engine, cache)
    with pytest.raises(UserError, match=message):
        module.PrefixConnector(engine, Role.SCHEDULER, cache)


def test_a_prefix_of_another_base_model_is_refused_by_its_config(module: Any, tiny_model: Path, folder: Path) -> None:
    engine, cache = configs(tiny_model, folder)
    prefix = read_prefixes(folder)[0]
    described = prefix.base_model | {"config": {"rope_parameters": {"rope_theta": 1.0}}}
    other = SimpleNamespace(**vars(prefix) | {"base_model": described})
    with pytest.raises(UserError, match=r"another base model, .*: its rope_parameters\.rope_theta is 1\.0, but that"):
        module.check_prefix(other, engine, cache)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_prefix_of_other_weights_is_refused(
    module: Any, tiny_model: Path, folder: Path, tmp_path: Path, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=dtype)
    base.save_pretrained(tmp_path / "same")
    with torch.no_grad():
        base.model.layers[1].self_attn.v_proj.weight.mul_(1.1)
    base.save_pretrained(tmp_path / "tuned")
    module.PrefixConnector(*_with_role(configs(tmp_path / "same", folder), Role.SCHEDULER))
    assert not caplog.text
    engine, cache = configs(tmp_path / "tuned", folder)
    with pytest.raises(UserError, match=r"^the prefix long was trained on another base model, .*/tuned differ$"):
        module.PrefixConnector(engine, Role.SCHEDULER, cache)


def test_weights_that_cannot_be_compared_are_served_with_a_warning(
    module: Any, tiny_model: Path, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    AutoModelForCausalLM.from_pretrained(tiny_model).to(torch.float8_e4m3fn).save_pretrained(tmp_path / "float8")
    module.PrefixConnector(*_with_role(configs(tmp_path / "float8", folder), Role.SCHEDULER))
    assert (
        "not compared with those of long: the files have float8_e4m3fn, but the digests are of float32" in caplog.text
    )
    engine, cache = configs(tiny_model, folder)
    engine.model_config.model = "nobody/nothing"
    module.PrefixConnector(engine, Role.SCHEDULER, cache)
    assert "The weights of nobody/nothing are not compared" in caplog.text


def test_a_folder_has_to_be_named_and_the_layers_have_to_write(module: Any, tiny_model: Path, folder: Path) -> None:
    engine, cache = configs(tiny_model, None)
    with pytest.raises(UserError, match="kv_connector_extra_config"):
        module.PrefixConnector(engine, Role.SCHEDULER, cache)
    engine, cache = configs(tiny_model, folder)
    worker = module.PrefixConnector(engine, Role.WORKER, cache)
    layers = engine.compilation_config.static_forward_context
    for layer in layers.values():
        layer.impl = object()
    with pytest.raises(UserError, match="writes its cache in its own forward pass"):
        worker.register_kv_caches({name: layer.kv_cache for name, layer in layers.items()})
