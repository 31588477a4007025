"""Check that every tensor of an adapter reached the model, and that the adapter changes the model's output."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from softprompts.adapters.configs import first_line
from softprompts.adapters.switch import without_adapter
from softprompts.encoding.documents import Document
from softprompts.engine.padded import stock_forward
from softprompts.errors import UserError, short, warn
from softprompts.models.identity.base_model import base_name
from softprompts.models.identity.facts import facts_of
from softprompts.models.identity.weights import sample_of
from softprompts.models.loading import max_positions
from softprompts.models.peft_compat import LimitedNumbers, as_loaded

import torch
from peft import MultitaskPromptTuningConfig, PeftConfig, PeftModel, PeftType
from peft.utils import AuxiliaryTrainingWrapper, ModulesToSaveWrapper, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

WEIGHTS = "adapter_model.safetensors"
NAME = "default"  # PEFT's name for the only adapter of a model
LEAST = 2**24  # numbers that any adapter may have in memory: 64 MiB in float32
LAYERS = 256  # that any adapter may make by using layers again
PROBE = 8  # tokens that the model reads with the adapter and without
ROUNDING = 1e-6  # share of the largest output, by which a copy of a weight may change it


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return an adapter's tensors by name.

    Raises:
        UserError: the file is missing, damaged or without tensors; it holds NaN or infinity.
    """
    file = folder / WEIGHTS
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, MemoryError) as error:
        raise UserError(f"adapter.path: {file} is not a safetensors file, or is damaged: {first_line(error)}") from None
    if not tensors:
        raise UserError(f"adapter.path: {file} contains no tensors")
    broken = [name for name, t in tensors.items() if t.is_floating_point() and not t.float().isfinite().all()]
    if broken:
        raise UserError(f"adapter.path: {file} contains NaN or infinity in {_listed(broken)}")
    return tensors


def check_sizes(settings: PeftConfig, tensors: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Check the sizes in a config against the tensors, because PEFT allocates memory by the config first.

    Raises:
        UserError: the config names a size that no tensor of the file reaches, or more layers than the file has tensors.
    """
    largest = max((size for tensor in tensors.values() for size in tensor.shape), default=0)
    rank = ["r"] if settings.peft_type == PeftType.LORA else []  # of other types it may be an upper bound
    for key in ["num_virtual_tokens", "token_dim", "num_tasks", "num_ranks", "adapter_len", *rank]:
        value = getattr(settings, key, None)
        if isinstance(value, (int, float)) and value > largest:
            raise UserError(
                f"adapter.path: {folder}: {key} is {value} in its config, and its largest tensor has {largest} rows or "
                "columns"
            )
    for key, count in _further_sizes(settings):
        if not isinstance(count, (int, float)) or count > largest:
            raise UserError(
                f"adapter.path: {folder}: {key} holds {short(count)} in its config, and its largest tensor has "
                f"{largest} rows or columns"
            )
    layers = sum(max(0, span[-1] - span[0]) for span in _spans(settings))
    if layers > max(LAYERS, len(tensors)):
        raise UserError(
            f"adapter.path: {folder}: layer_replication makes {layers} layers in its config, and its file has only "
            f"{len(tensors)} tensors"
        )


def memory_limit(base: nn.Module, tensors: Mapping[str, torch.Tensor]) -> LimitedNumbers:
    """Return a context for loading an adapter, in which a config cannot make PEFT fill the memory.

    Some types have more tensors in memory than in their files. With adapters in all linear layers of a Llama model, 18
    types of PEFT made up to 1.6 times the numbers of the base model and the file (BOFT).
    """
    own = sum(tensor.numel() for tensor in (*base.parameters(), *tensors.values()))
    return LimitedNumbers(4 * own + LEAST)


def _further_sizes(settings: PeftConfig) -> Iterator[tuple[str, Any]]:
    """Yield sizes inside other values of a config: ranks by name, and layers that are used again."""
    ranks: Any = getattr(settings, "rank_pattern", None)
    yield from (("rank_pattern", rank) for rank in (ranks.values() if isinstance(ranks, dict) else ()))
    yield from (("layer_replication", end) for span in _spans(settings) for end in span)


def _spans(settings: PeftConfig) -> list[Any]:
    """Return the first and last layers of the spans that a config uses again; PEFT reports values of other types."""
    spans: Any = getattr(settings, "layer_replication", None)
    return [span for span in spans if isinstance(span, (list, tuple)) and span] if isinstance(spans, list) else []


def check_arrived(model: PeftModel, tensors: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Check that the adapter in the model and the file have the same tensors, with the same values.

    Raises:
        UserError: a tensor of the file has no place in the model; the file lacks a part of the adapter; a value
            differs.
    """
    base, sent = cast(PreTrainedModel, model.get_base_model()), as_loaded(model, tensors, NAME)
    own = get_peft_model_state_dict(model, adapter_name=NAME, save_embedding_layers=False)
    places = model.state_dict() | own
    unknown = [name for name in sent if name not in places]
    arrived = {places[name].data_ptr() for name in sent if name in places}
    missing = [name for name, tensor in own.items() if tensor.data_ptr() not in arrived and tensor.numel()]
    other = [n for n in sent if n in places and not _same(sent[n], places[n], base.dtype)]
    faults = [
        f"{what} {_listed(names)}"
        for names, what in (
            (unknown, "contains tensors that do not exist in the model:"),
            (missing, "lacks tensors that its config requires:"),
            (other, "has values that did not reach the model unchanged:"),
        )
        if names
    ]
    if faults:
        raise UserError(f"adapter.path: {folder / WEIGHTS} does not fit: it {'; it '.join(faults)}")


def _same(sent: torch.Tensor, found: torch.Tensor, base: torch.dtype) -> bool:
    """Return whether a tensor of the model has the values of the file, in the model's data type."""
    there = found.detach().cpu()
    if sent.shape != there.shape:
        return False
    # Some layers convert values to the base model's type first.
    return any(torch.equal(s.to(there.dtype), there) for s in (sent, sent.to(base) if base.is_floating_point else sent))


def check_classifier(base: Any, folder: Path) -> None:
    """Check that an adapter contains the parts that are untrained in the base model: an encoder's classifier.

    Raises:
        UserError: the adapter lacks such a part.
    """
    wrapped = {n.rpartition(".")[2] for n, m in base.named_modules() if isinstance(m, AuxiliaryTrainingWrapper)}
    for part in facts_of(base).new_parts:
        if part not in wrapped:
            raise UserError(
                f"adapter.path: {folder} contains no {part}, and that of {base.name_or_path} is untrained: "
                "predictions would be random"
            )


@torch.no_grad()
def answer_to_probe(model: Any, settings: PeftConfig, task_id: int) -> torch.Tensor | None:
    """Return the logits after a few tokens, float32; None if the model has too few positions.

    Args:
        model: the base model, or a PEFT model over it.
        settings: the adapter's config. If the adapter changes the embeddings of some tokens, the probe includes them.
        task_id: the task's number, for multitask prompt tuning.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    vocabulary = base.config.get_text_config().vocab_size
    indices: Any = getattr(settings, "trainable_token_indices", None) or getattr(settings, "token_indices", None) or []
    own = [i for part in indices.values() for i in part] if isinstance(indices, dict) else list(indices)
    ids = [*own[:PROBE], *(i * vocabulary // PROBE for i in range(1, PROBE))]
    positions, virtual = max_positions(base), getattr(settings, "num_virtual_tokens", None) or 0
    ids = ids if positions is None else ids[: max(0, positions - virtual - 1)]
    if not ids:
        return None
    arguments = {}
    if isinstance(model, PeftModel) and isinstance(settings, MultitaskPromptTuningConfig):
        arguments = {"task_ids": torch.tensor([task_id], device=base.device)}
    return stock_forward(model, [Document(tuple(ids), (0,))], base.device, **arguments)[0]


def check_effect(model: PeftModel, before: torch.Tensor | None, *, task_id: int, folder: Path) -> None:
    """Check that an adapter can change the model's output, and warn if it does not do so now.

    Args:
        model: the base model with the adapter.
        before: the output of `answer_to_probe` for the base model alone.
        task_id: the task's number, for multitask prompt tuning.
        folder: the adapter's folder.

    Raises:
        UserError: the output is the same for any values of the adapter.
    """
    settings: Any = model.peft_config[NAME]
    after = answer_to_probe(model, settings, task_id)
    if before is None or after is None:
        return
    wrappers = {n: m for n, m in model.named_modules() if isinstance(m, AuxiliaryTrainingWrapper)}
    saved = get_peft_model_state_dict(model, adapter_name=NAME, save_embedding_layers=False)
    in_place = {parameter.data_ptr() for parameter in model.parameters()}  # some types save computed tensors
    tensors = [
        tensor
        for name, tensor in saved.items()
        if tensor.is_floating_point()
        and tensor.data_ptr() in in_place
        and not name.startswith(tuple(f"{wrapper}." for wrapper in wrappers))
    ]
    shaken = _shaken(model, tensors, task_id) if tensors else None
    if shaken is not None and torch.equal(after, shaken):
        raise UserError(
            f"adapter.path: {folder} has no effect: the output of {model.get_base_model().name_or_path} is the same "
            f"for any values of this {getattr(settings.peft_type, 'value', settings.peft_type)} adapter"
        )
    # A copy of a weight lies at another address, at which some processors round a product in another way.
    rounding = ROUNDING * float(before.abs().max()) if wrappers else 0.0
    same = torch.allclose(before, after, rtol=0, atol=rounding)
    if same and not any(_differs(wrapper) for wrapper in wrappers.values()):
        warn(
            f"adapter.path: {folder} changes nothing: the output is that of the base model, as with an adapter before "
            "its first training step"
        )


def samples_of(base: nn.Module) -> dict[str, torch.Tensor]:
    """Return a sample of each weight of a base model, evenly spread, before an adapter is added."""
    return {name: sample_of(parameter).clone() for name, parameter in base.named_parameters()}


def keeps_base(
    model: PeftModel, *, before: torch.Tensor | None, samples: Mapping[str, torch.Tensor], task_id: int, folder: Path
) -> bool:
    """Return whether a model is still its former base model when its adapter is switched off, and warn if not.

    Some kinds of LoRA subtract from the base model's weights, train its biases, or duplicate its layers.

    Args:
        model: the base model with the adapter.
        before: the output of `answer_to_probe` for the base model alone.
        samples: `samples_of` the base model alone.
        task_id: the task's number, for multitask prompt tuning.
        folder: the adapter's folder.
    """
    base = model.get_base_model()
    found = {base_name(name): parameter for name, parameter in base.named_parameters()}
    changed = any(not _equal(samples[name], sample_of(found[name])) for name in samples.keys() & found.keys())
    if not changed and before is not None:
        with warnings.catch_warnings(action="ignore"), without_adapter(model):  # PEFT warns too, less precisely
            after = answer_to_probe(base, model.peft_config[NAME], task_id)
        changed = after is None or not _equal(before, after)
    if changed:
        warn(
            f"adapter.path: {folder} changes weights or layers of {base.name_or_path} itself, so switching it off does "
            "not restore the base model; run without adapter.path to see the base model's predictions"
        )
    return not changed


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other.to(one.dtype), rtol=0, atol=0, equal_nan=True)


@torch.no_grad()
def _shaken(model: PeftModel, tensors: Iterable[torch.Tensor], task_id: int) -> torch.Tensor | None:
    """Return the logits of the probe with other values in the adapter, and restore the adapter's values."""
    kept = [(tensor, tensor.detach().clone()) for tensor in tensors]
    try:
        for tensor, _ in kept:
            tensor.data.mul_(1.5).add_(0.5)
        return answer_to_probe(model, model.peft_config[NAME], task_id)
    finally:
        for tensor, values in kept:
            tensor.data.copy_(values)


def _differs(wrapper: Any) -> bool:
    """Return whether a module that an adapter replaces differs from the base model's."""
    if not isinstance(wrapper, ModulesToSaveWrapper):
        return False
    own, original = (m.state_dict() for m in (wrapper.modules_to_save[NAME], wrapper.original_module))
    return any(not torch.equal(own[name].float(), original[name].float()) for name in own)


def _listed(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if names[1:] else "")
