"""A KV connector that serves exported prefixes in vLLM, in place of the placeholders' keys and values.

    vllm serve MODEL --generation-config vllm --kv-transfer-config '{
        "kv_connector": "PrefixConnector", "kv_role": "kv_consumer",
        "kv_connector_module_path": "softprompts.export.kv_cache.vllm_connector",
        "kv_connector_extra_config": {"prefixes": "FOLDER"}}'

A prompt that begins with the placeholders of a prefix is completed with it, any other prompt as always. The connector
is written for vLLM 0.32, whose interface for connectors is experimental. vLLM's environment requires this package and
lazy-loader, but neither PEFT nor this project's version of transformers.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from softprompts.errors import UserError
from softprompts.export.kv_cache.prefixes import Prefix, find_prefix, read_prefixes, read_states
from softprompts.models.identity.settings import config_fields, differences
from softprompts.models.identity.weights import files_agree

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorTransferResults,
)
from vllm.model_executor.models.utils import extract_layer_index

logger = logging.getLogger(f"vllm.{__name__}")  # vLLM configures the loggers below its own name


@dataclass
class Load:
    """Rows of a prefix, from the `first` one, for these slots of the cache."""

    prefix: str
    first: int
    slots: list[int]


@dataclass
class Step(KVConnectorMetadata):
    """The scheduler's orders for the workers in one step: the loads, and the ids of requests that must fail."""

    loads: list[Load] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)


class PrefixConnector(KVConnectorBase_V1):
    """Load prefixes. One instance decides in the scheduler, another one writes in the worker."""

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        place = self._kv_transfer_config.get_from_extra_config("prefixes", None)
        if not place:
            raise UserError('kv_connector_extra_config: expected {"prefixes": FOLDER}')
        self._prefixes = {prefix.name: prefix for prefix in read_prefixes(Path(place))}
        check_engine(vllm_config, kv_cache_config)
        for prefix in self._prefixes.values():
            check_prefix(prefix, vllm_config, kv_cache_config)
        self._block_size: int = kv_cache_config.kv_cache_groups[0].kv_cache_spec.block_size
        # For the scheduler: the prefix of each waiting or running request, and the orders for the next step.
        self._asked: dict[str, Prefix] = {}
        self._refused: set[str] = set()
        self._step = Step()
        # For the worker.
        self._states: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        if role == KVConnectorRole.WORKER:
            self._states = {name: read_states(prefix, Path(place)) for name, prefix in self._prefixes.items()}
        self._layers: dict[int, Any] = {}

    # The scheduler's side.

    def on_new_request(self, request: Any) -> None:
        """Note the prefix that a request asks for, or the reason why it cannot be served."""
        try:
            prefix = find_prefix(request.prompt_token_ids or (), self._prefixes.values())
            if prefix and request.skip_reading_prefix_cache:
                raise UserError(
                    f"the prefix {prefix.name} cannot be computed from its placeholders, which prompt_logprobs and "
                    "skip_reading_prefix_cache would require"
                )
        except UserError as error:
            logger.error("Request %s is refused: %s", request.request_id, error)
            self._refused.add(request.request_id)
            # Otherwise vLLM would not ask for matched tokens, and would compute the placeholders.
            request.skip_reading_prefix_cache = False
        else:
            if prefix:
                self._asked[request.request_id] = prefix

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        """Return the number of a prompt's tokens that come from a prefix, and whether they load asynchronously.

        For a refused prompt, all tokens load asynchronously, because such a load can fail before any computation.
        """
        if request.request_id in self._refused:
            return request.num_tokens - num_computed_tokens, True
        prefix = self._asked.get(request.request_id)
        return (max(prefix.tokens - num_computed_tokens, 0) if prefix else 0), False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Plan the loads into the blocks of a request."""
        if not num_external_tokens:
            return
        if request.request_id in self._refused:
            self._step.refused.add(request.request_id)
            return
        prefix = self._asked[request.request_id]
        first = prefix.tokens - num_external_tokens
        (ids,) = blocks.get_block_ids()
        self._step.loads.append(Load(prefix.name, first, slots_of(ids, self._block_size, first, prefix.tokens)))

    def build_connector_meta(self, scheduler_output: Any) -> Step:
        """Return the orders since the last step."""
        step, self._step = self._step, Step()
        return step

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        """Forget a request, and send nothing."""
        self._asked.pop(request.request_id, None)
        self._refused.discard(request.request_id)
        return False, None

    # The worker's side.

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """Find the layers of the caches, and move the prefixes to their device."""
        context = self._vllm_config.compilation_config.static_forward_context
        self._layers = {extract_layer_index(name): context[name] for name in kv_caches}
        unfit = [name for name in kv_caches if not hasattr(context[name].impl, "do_kv_cache_update")]
        if unfit:
            raise UserError(f"the attention of {unfit[0]} writes its cache in its own forward pass; choose another one")
        device = next(iter(kv_caches.values())).device
        dtype = self._vllm_config.model_config.dtype
        self._states = {
            name: (keys.to(device, dtype), values.to(device, dtype)) for name, (keys, values) in self._states.items()
        }

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Write this step's loads into every layer's cache by the layer's own writer, which knows the layout."""
        for load in self._get_connector_metadata().loads:
            keys, values = self._states[load.prefix]
            rows = slice(load.first, load.first + len(load.slots))
            slots = torch.tensor(load.slots, dtype=torch.int64, device=keys.device)
            for number, layer in self._layers.items():
                key, value = keys[number, rows], values[number, rows]
                layer.impl.do_kv_cache_update(layer, key, value, layer.kv_cache, slots)

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        """Report that the loads of refused requests failed."""
        refused = self._get_connector_metadata().refused
        return KVConnectorTransferResults(finished_recving=set(refused), failed_recving=set(refused))

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Return at once: everything is loaded before the forward pass."""

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        """Save nothing."""

    def wait_for_save(self) -> None:
        """Save nothing."""


def slots_of(block_ids: list[int], block_size: int, first: int, end: int) -> list[int]:
    """Return the cache slots of the positions from `first` to `end` of a request with these blocks."""
    return [block_ids[place // block_size] * block_size + place % block_size for place in range(first, end)]


def check_engine(vllm_config: Any, kv_cache_config: Any) -> None:
    """Refuse settings of vLLM that prefixes were not tested with, or do not support.

    Raises:
        UserError: several devices for one model; speculative decoding; several kinds of attention, or a sliding window;
            loads that may fail silently.
    """
    parallel = vllm_config.parallel_config
    for setting in ("tensor_parallel_size", "pipeline_parallel_size", "decode_context_parallel_size"):
        if getattr(parallel, setting) != 1:
            raise UserError(f"{setting}: prefixes require 1, found {getattr(parallel, setting)}")
    if vllm_config.speculative_config is not None:
        raise UserError("speculative_config: prefixes are not served with speculative decoding")
    if vllm_config.kv_transfer_config.kv_load_failure_policy != "fail":
        raise UserError(
            "kv_load_failure_policy: expected fail, or the placeholders of a refused prompt would be computed"
        )
    specs = [group.kv_cache_spec for group in kv_cache_config.kv_cache_groups]
    if len(specs) != 1 or type(specs[0]).__name__ != "FullAttentionSpec" or specs[0].sliding_window is not None:
        names = ", ".join(type(spec).__name__ for spec in specs)
        raise UserError(
            f"the model has {names or 'no attention'}; prefixes are served with full attention in all layers"
        )


def check_prefix(prefix: Prefix, vllm_config: Any, kv_cache_config: Any) -> None:
    """Refuse a prefix of another base model, by configs, sizes and the files of the weights.

    If weights cannot be compared, for example quantised ones, the log has a warning.

    Raises:
        UserError: the config, sizes or weights differ; or the prefix leaves no room for a text.
    """
    model, base = vllm_config.model_config, prefix.base_model
    spec, layers = kv_cache_config.kv_cache_groups[0].kv_cache_spec, kv_cache_config.kv_cache_groups[0].layer_names
    ours = config_fields(model.hf_config, labels=False)
    found = differences(base.get("config", {}), ours)
    found += [
        (what, was, is_)
        for what, was, is_ in (
            ("layers", prefix.layers, len(layers)),
            ("heads of keys and values", prefix.heads, spec.num_kv_heads),
            ("head size", prefix.head_size, spec.head_size),
        )
        if was != is_
    ]
    if found:
        what, was, is_ = found[0]
        raise UserError(
            f"the prefix {prefix.name} was trained on another base model, {base.get('name')}: its {what} is {was}, but "
            f"that of {model.model} is {is_}"
        )
    same = files_agree(model.model, model.revision, prefix.weight_names, base.get("weights", {}))
    if same is False:
        raise UserError(
            f"the prefix {prefix.name} was trained on another base model, {base.get('name')}: the weights of "
            f"{model.model} differ"
        )
    if same is not True:
        logger.warning("The weights of %s are not compared with those of %s: %s", model.model, prefix.name, same)
    if prefix.tokens >= model.max_model_len:
        raise UserError(f"max_model_len: {model.max_model_len} tokens leave no room after the prefix {prefix.name}")
