"""Cartridges are loaded, trained and saved; several cartridges, or prefixes, become one adapter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from helpers import cli_in_process, load_base, scores
from made_adapters import KINDS, change_config, change_weights, load, saved
from softprompts.adapters.composition import compose
from softprompts.adapters.saving import write_adapter
from softprompts.encoding.documents import Document
from softprompts.engine.forward import Engine
from softprompts.engine.kv_cache import States
from softprompts.errors import UserError
from softprompts.models.identity.base_model import Identity, read_record, write_record

import pytest
import torch
from peft import CartridgeConfig, PeftModel, PrefixTuningConfig
from peft.tuners.cartridge.utils import compose_cartridge_adapters
from safetensors.torch import load_file
from transformers import DynamicCache

DOCUMENTS = [Document((0, 5, 6), (7,)), Document((0, *range(20, 33)), (40, 41, 42))]
CONFIG: dict[str, Any] = {"cartridge": CartridgeConfig, "prefix": PrefixTuningConfig}


@pytest.fixture
def parts(tiny_model: Path, tmp_path: Path) -> dict[str, list[Path]]:
    """Folders of two cartridges, and of two prefixes, of 3 and 4 positions."""
    made = {}
    for kind, config in CONFIG.items():
        made[kind] = [tmp_path / f"{kind} {count}" for count in (3, 4)]
        for folder, count in zip(made[kind], (3, 4), strict=True):
            saved(tiny_model, config(task_type="CAUSAL_LM", num_virtual_tokens=count), folder)
            change_weights(folder, lambda tensors, by=count: {name: t * by / 4 for name, t in tensors.items()})
    return made


def stock(model: Path, folder: Path) -> Any:
    return PeftModel.from_pretrained(load_base(model)[0], str(folder)).eval()


@torch.no_grad()
def logits(model: Any, packed: bool = False) -> torch.Tensor:
    return scores(Engine(model, None), DOCUMENTS, packed).logits  # type: ignore[arg-type]


def states(model: Any) -> States:
    found = Engine(model, None).soft_prompt(0)  # type: ignore[arg-type]
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize("packed", [False, True])
def test_a_cartridge_is_loaded_scored_and_written_again(tiny_model: Path, tmp_path: Path, packed: bool) -> None:
    expected = logits(saved(tiny_model, KINDS["cartridge"](), tmp_path / "cartridge"))
    model = load(tiny_model, tmp_path / "cartridge", any_base=True)
    torch.testing.assert_close(logits(model, packed), expected, rtol=1e-4, atol=1e-4)
    write_adapter(model, tmp_path / "again")
    again = stock(tiny_model, tmp_path / "again")
    assert isinstance(again.active_peft_config, CartridgeConfig)
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("kind", CONFIG)
def test_a_composition_holds_the_keys_and_values_of_all_in_their_order(
    tiny_model: Path, parts: dict[str, list[Path]], tmp_path: Path, kind: str
) -> None:
    compose(list(map(str, parts[kind])), tmp_path / "both")
    both = stock(tiny_model, tmp_path / "both")
    assert isinstance(both.active_peft_config, CONFIG[kind])
    each = [states(stock(tiny_model, folder)) for folder in parts[kind]]
    for found, *layers in zip(states(both), *each, strict=True):
        for which in (0, 1):
            assert torch.equal(found[which], torch.cat([layer[which] for layer in layers], dim=2))
    loaded = load(tiny_model, tmp_path / "both", any_base=True)
    for packed in (False, True):
        torch.testing.assert_close(logits(loaded, packed), logits(both), rtol=1e-4, atol=1e-4)


def test_of_cartridges_it_is_what_peft_makes(tiny_model: Path, parts: dict[str, list[Path]], tmp_path: Path) -> None:
    compose(list(map(str, parts["cartridge"])), tmp_path / "ours")
    compose_cartridge_adapters(parts["cartridge"], output_path=tmp_path / "theirs")
    ours, theirs = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    assert torch.equal(ours["prompt_embeddings"], theirs["prompt_embeddings"])
    configs = [json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("ours", "theirs")]
    assert configs[0] == configs[1]


def test_what_does_not_belong_together_is_refused(
    tiny_model: Path, parts: dict[str, list[Path]], tmp_path: Path
) -> None:
    one, other = map(str, parts["cartridge"])

    def refused(message: str, *paths: str, output: Path = tmp_path / "new") -> None:
        with pytest.raises(UserError, match=message) as caught:
            compose(paths, output)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "new").exists()

    refused(r"^compose.adapters: expected two or more, found 1$", one)
    refused(r"^compose.adapters: no such folder: ./gone", one, "./gone")
    refused(
        r"prefix 3: peft_type is PREFIX_TUNING, but .*cartridge 3 has CARTRIDGE$",
        one,
        str(parts["prefix"][0]),
    )
    refused(r"cartridge 3 exists already; name a new folder$", one, other, output=parts["cartridge"][0])
    refused(
        r"^compose.output_dir: .*json exists already", one, other, output=parts["cartridge"][0] / "adapter_config.json"
    )
    saved(tiny_model, KINDS["prompt"](), tmp_path / "prompt")
    refused(
        r"^compose.adapters: .*prompt is of type PROMPT_TUNING: expected a cartridge or a prefix",
        one,
        str(tmp_path / "prompt"),
    )
    saved(tiny_model, KINDS["projected prefix"](), tmp_path / "projected")
    refused(r"projected: a network computes this prefix", str(parts["prefix"][0]), str(tmp_path / "projected"))
    for name, change in (
        ("elsewhere", {"base_model_name_or_path": "some/other"}),
        ("deeper", {"num_layers": 3}),
        ("longer", {"num_virtual_tokens": 5}),
    ):
        shutil.copytree(other, tmp_path / name)
        change_config(tmp_path / name, **change)
    refused(r"elsewhere was trained on some/other, but .*cartridge 3 on ", one, str(tmp_path / "elsewhere"))
    refused(r"deeper: num_layers is 3, but .*cartridge 3 has 2$", one, str(tmp_path / "deeper"))
    refused(r"longer lacks 5 rows of prompt_embeddings$", one, str(tmp_path / "longer"))
    for name, change in (
        ("classifier", lambda tensors: tensors | {"classifier.weight": torch.ones(2, 2)}),
        ("narrower", lambda tensors: {key: values[:, 1:] for key, values in tensors.items()}),
    ):
        shutil.copytree(other, tmp_path / name)
        change_weights(tmp_path / name, change)
    refused(
        r"classifier also contains classifier.weight; expected only keys and values$",
        one,
        str(tmp_path / "classifier"),
    )
    refused(r"narrower: width is 63, but .*cartridge 3 has 64$", one, str(tmp_path / "narrower"))


@pytest.mark.parametrize("nested", [False, True])
def test_more_virtual_tokens_than_positions_are_refused(
    parts: dict[str, list[Path]], tmp_path: Path, nested: bool
) -> None:
    for positions in (7, 8):
        sizes: dict[str, Any] = {"max_position_embeddings": positions}
        identity = Identity("it", "llama", {}, {"float32": "1"}, {"text_config": sizes} if nested else sizes)
        for folder in parts["prefix"]:
            write_record(folder, identity, None)
        if positions == 7:
            with pytest.raises(
                UserError, match=r"^compose.adapters: 7 virtual tokens together leave no room in the model's 7 "
            ):
                compose(list(map(str, parts["prefix"])), tmp_path / "both")
        else:
            assert compose(list(map(str, parts["prefix"])), tmp_path / "both") == 7
            assert read_record(tmp_path / "both").base == identity


@pytest.mark.parametrize("kind", CONFIG)
def test_the_recipe_writes_what_the_base_model_says_behind_both(
    tiny_model: Path, parts: dict[str, list[Path]], tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    folders = "[" + ", ".join(f'"{folder}"' for folder in parts[kind]) + "]"
    both = tmp_path / "new" / "both"
    command = ["recipes/compose.py", "--compose.adapters", folders, "--compose.output_dir", str(both)]
    code, said, errors = cli_in_process(command, capfd)
    assert (code, errors) == (0, [])
    assert said == f"7 virtual tokens written to {both}\n"
    base: Any = load_base(tiny_model)[0]
    tables = [load_file(folder / "adapter_model.safetensors")["prompt_embeddings"] for folder in parts[kind]]
    # PEFT's layout: of each position the keys, then the values, of one layer after the other.
    layers = torch.cat(tables).unflatten(1, (2, 2, 2, 8))
    expected = []
    for document in DOCUMENTS:
        cache = DynamicCache()
        for number in range(2):
            keys, values = (layers[:, number, which].transpose(0, 1)[None] for which in (0, 1))
            cache.update(keys.contiguous(), values.contiguous(), number)
        with torch.no_grad():
            read = base(torch.tensor([document.input_ids]), past_key_values=cache)
        expected.append(read.logits[0, -len(document.target_ids) :])
    torch.testing.assert_close(logits(stock(tiny_model, both)), torch.cat(expected), rtol=1e-4, atol=1e-4)
