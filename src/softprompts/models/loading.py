"""Load the frozen base model and its tokenizer, and count parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from softprompts.config.sections import ModelConfig
from softprompts.errors import UserError, warn
from softprompts.models.identity.base_model import identity_of
from softprompts.models.identity.facts import facts_of, name_outputs, output_names
from softprompts.models.identity.outputs import outputs_of, two_or_more
from softprompts.models.paths import model_path
from softprompts.models.peft_compat import attention_name, has_bfloat16_instructions, keep_four_bit_weights
from softprompts.models.reading import (
    CONFIG,
    check_ends,
    check_generation,
    idle_weights,
    read_config,
    read_tokenizer,
    reading,
    silent_transformers,
)
from softprompts.models.sharding.layers import settle, sharded_loading, sharding_asked

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

# A decoder continues a text, an encoder-decoder answers a text, an encoder has a classifier for labels.
Kind = Literal["decoder", "encoder-decoder", "encoder"]
AUTO: dict[Kind, Any] = {
    "decoder": AutoModelForCausalLM,
    "encoder-decoder": AutoModelForSeq2SeqLM,
    "encoder": AutoModelForSequenceClassification,
}
# Endings of the names of classification models. The names of their heads' weights are often alike.
HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice")
SAMPLED = 256  # rows that are searched for the scale of an embedding layer


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of scalar parameters. A 4-bit base model counts each packed value once, as PEFT does."""

    total: int
    trainable: int


def kind_of(config: PretrainedConfig) -> Kind:
    """Return the kind of model of a config. A model of neither other kind counts as a decoder."""
    if config.is_encoder_decoder:
        return "encoder-decoder"
    name = (config.architectures or [""])[0]
    # XLM and FlauBERT have one name for models that read to the left, and for those that read in both directions.
    both = name.endswith("WithLMHeadModel") and not getattr(config, "causal", False)
    decodes = getattr(config, "is_decoder", False) or (name.endswith(("ForCausalLM", "LMHeadModel")) and not both)
    return "encoder" if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not decodes else "decoder"


def load_model_config(config: ModelConfig) -> PretrainedConfig:
    """Return the base model's own config, without reading the weights.

    Raises:
        UserError: as `model_path`; a Hub id cannot be loaded; a settings file is not a JSON object; transformers does
            not know the config; the config requires code that is not transformers' own.
    """
    path = model_path(config)
    found = read_config(path, config.revision)
    for part in (found, found.get_text_config()):
        if "/" in attention_name(part):  # transformers would download its code from the Hub
            raise UserError(
                f"model.name_or_path: {path} requires foreign code ({attention_name(part)}, in its config), which this "
                "project does not run; remove attn_implementation from its config.json"
            )
    return found


def refuse_forward(config: ModelConfig, what: str) -> None:
    """Raise `UserError` if a setting of the forward pass is given, which `what` does not use."""
    for name in ("engine", "gradient_checkpointing"):
        if getattr(config, name) != getattr(ModelConfig, name):
            raise UserError(f"model.{name}: {what} has its own forward pass; leave this setting out")


def dtype_of(config: ModelConfig, device: torch.device) -> torch.dtype:
    """Return the data type of the base model's weights on a device.

    `auto` checks for bfloat16 instructions. A CPU without them supports bfloat16 but needs minutes for seconds of work
    in 32 bits (docs/lab-log.md).
    """
    if config.dtype != "auto":
        named: torch.dtype = getattr(torch, config.dtype)
        return named
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and has_bfloat16_instructions()
    return torch.bfloat16 if fast else torch.float32


def load_base_model(
    config: ModelConfig, device: torch.device, choices: Sequence[str] | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the frozen base model, in evaluation mode on `device`, and its tokenizer.

    `facts_of` the model describes the loading. An encoder without a classifier gets one with random weights and an
    output for each of `choices`.

    Raises:
        UserError: the bundled name is unknown; the folder has no model; a Hub id cannot be loaded; weights are missing;
            bitsandbytes does not support this device; the model has its own code; a decoder was made for
            classification; an encoder has fewer than two choices, or its classifier's outputs have other names;
            quantised weights under FSDP.
    """
    path, own = model_path(config), load_model_config(config)
    kind = kind_of(own)
    made_for = (own.architectures or [""])[0]
    if kind != "encoder" and made_for.endswith(HEADS):
        raise UserError(f"model.name_or_path: {path} is a {made_for}, which classifies and cannot generate text")
    names = two_or_more(choices, path) if kind == "encoder" else []
    with silent_transformers():
        check_generation(path)
        model, loading = _load_weights(path, config, device, own, names)
        check_ends(path, model)
        tokenizer = read_tokenizer(path, config.revision)
    settle(model)
    facts = facts_of(model)
    facts.config, facts.choices = config, tuple(choices or ())
    facts.new_parts = _new_parts(path, model, loading, kind)
    if names:
        name_outputs(model, names)
    facts.identity = identity_of(model, facts.new_parts, tokenizer, labels=facts.own_labels)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    _freeze(model)
    if config.quantization == "none":
        nn.Module.to(model, device)  # bitsandbytes has placed its weights already
    return model, tokenizer


def _load_weights(
    path: str, config: ModelConfig, device: torch.device, own: PretrainedConfig, names: Sequence[str]
) -> tuple[Any, dict[str, Any]]:
    """Return the model, on the device if it is quantised, and transformers' report on its weights.

    Args:
        path: folder or Hub id.
        config: the base model's settings.
        device: the device for computing.
        own: the model's own config.
        names: names of an encoder's classifier outputs; empty for other kinds of models.
    """
    dtype, kind = dtype_of(config, device), kind_of(own)
    quantization = _quantization(config, dtype)
    with reading(path, lambda place: _build(place, kind), [CONFIG]), sharded_loading(device) as shards:
        try:
            loaded: tuple[Any, dict[str, Any]] = AUTO[kind].from_pretrained(
                path,
                revision=config.revision,
                dtype=dtype,
                quantization_config=quantization,
                trust_remote_code=False,
                use_safetensors=True,  # other weights are pickles
                output_loading_info=True,
                **({"device_map": {"": device}} if quantization else {}),
                **({"num_labels": len(names)} if names else {}),
                **shards,
            )
        except RuntimeError as error:
            if names and own.num_labels != len(names) and "ignore_mismatched_sizes" in str(error):
                outputs_of(names, output_names(own), path)  # its error lists their names
            raise
    return loaded


def _quantization(config: ModelConfig, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    if config.quantization != "none" and sharding_asked():
        raise UserError(
            f"model.quantization: {config.quantization} cannot be shared out with FSDP: bitsandbytes quantises whole "
            "weights, and each process reads some rows of them; set it to none, or launch with "
            "configs/accelerate/multi_gpu.yaml"
        )
    if config.quantization == "nf4":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    return BitsAndBytesConfig(load_in_8bit=True) if config.quantization == "int8" else None


def _new_parts(path: str, model: PreTrainedModel, loading: dict[str, Any], kind: Kind) -> tuple[str, ...]:
    """Return the parts of an encoder's classifier that its folder lacks; warn of unused weights.

    Raises:
        UserError: other weights are missing, which transformers would replace with random numbers.
    """
    parts = {key: _part_of(key, model) if kind == "encoder" else None for key in loading["missing_keys"]}
    if missing := sorted(key for key, part in parts.items() if part is None):
        raise UserError(f"model.name_or_path: {path} lacks {len(missing)} weights, the first: {missing[0]}")
    if idle := idle_weights(loading["unexpected_keys"], kind == "encoder"):
        warn(
            f"model.name_or_path: {path} holds {len(idle)} weights that its config.json has no place for, and that are "
            f"not used, the first: {idle[0]}"
        )
    return tuple(sorted({part for part in parts.values() if part is not None}))


def _freeze(model: PreTrainedModel) -> None:
    # Active dropout, or weights with gradients, would contradict "frozen".
    model.eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(settings := getattr(module, "config", None), PretrainedConfig):  # in an encoder, it may be a copy
            # Our code reads outputs by name, and neither attention nor hidden states.
            settings.return_dict, settings.output_attentions, settings.output_hidden_states = True, False, False
    keep_four_bit_weights(model)


def _build(place: str, kind: Kind) -> None:
    """Build the model of a folder's config without its weights: on PyTorch's meta device."""
    with torch.device("meta"):
        AUTO[kind].from_config(AutoConfig.from_pretrained(place, trust_remote_code=False))


def _part_of(key: str, model: PreTrainedModel) -> str | None:
    """Return the classifier's part of a weight, including the pooler; None for the encoder's own weights."""
    if ".pooler." in key:
        return "pooler"
    return None if key.startswith(f"{model.base_model_prefix}.") else key.split(".")[0]


def default_device() -> torch.device:
    """Return the accelerator, or else the CPU, for a tool with a single process."""
    return torch.accelerator.current_accelerator() or torch.device("cpu")


def count_parameters(model: nn.Module) -> ParameterCount:
    """Count all parameters and the trainable ones."""
    total = sum(p.numel() for p in model.parameters())
    return ParameterCount(total, sum(p.numel() for p in model.parameters() if p.requires_grad))


def position_table(model: nn.Module) -> nn.Embedding | None:
    """Return the table of learned positions, which limits the length; None if positions are computed."""
    names = ("wpe", "embed_positions", "position_embeddings", "position_embedding")
    tables = (
        m for name, m in model.named_modules() if name.rpartition(".")[2] in names and isinstance(m, nn.Embedding)
    )
    return next(tables, None)


def max_positions(model: PreTrainedModel, part: Any = None) -> int | None:
    """Return the longest sequence, in tokens, that the base model was built for; None if its config names no limit.

    RoBERTa and related models count positions from after the padding token's, so fewer fit than in their config.

    Args:
        model: the base model.
        part: one of its stacks, whose table of learned positions counts; by default the first one.
    """
    positions: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    table = position_table(part or model)
    if table is None:
        return positions
    rows = table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    return rows if positions is None else min(positions, rows)


@torch.no_grad()
def embedding_scale(table: Any) -> float:
    """Return the scale of an embedding layer: the root of the width in Gemma, 1 in most models."""
    rows = table.weight[:SAMPLED].float()
    number, at = divmod(int(rows.abs().argmax()), rows.shape[1])  # the row of a padding token is 0
    (read,) = table(torch.tensor([number], device=rows.device)).float()
    return float(read[at] / rows[number, at])


@dataclass(frozen=True)
class InputSpec:
    """The limits of a base model's input.

    kind: see `Kind`; room: tokens in addition to the virtual ones, None without a limit; vocabulary: number of token
    ids with an embedding, None if unknown; ends: token ids that end a text by the base model's own settings.
    target_room: tokens of a target in an encoder-decoder, which reads only the prompt in the positions of `room`.
    """

    kind: Kind = "decoder"
    room: int | None = None
    vocabulary: int | None = None
    ends: tuple[int, ...] = ()
    target_room: int | None = None


def input_spec(model: PreTrainedModel, virtual_tokens: int = 0) -> InputSpec:
    """Return the limits of a base model's input in addition to virtual tokens; UserError if they leave no room."""
    kind, positions = kind_of(model.config), max_positions(model)
    room = None if positions is None else positions - virtual_tokens
    if virtual_tokens and room is not None and room < 1:
        raise UserError(
            f"num_virtual_tokens: {virtual_tokens} virtual tokens leave no room in the model's {positions} positions"
        )
    tables: list[Any] = [model.get_input_embeddings(), None if kind == "encoder" else model.get_output_embeddings()]
    vocabulary = min(len(table.weight) for table in tables if isinstance(getattr(table, "weight", None), torch.Tensor))
    target_room = max_positions(model, model.get_decoder()) if kind == "encoder-decoder" else None
    return InputSpec(kind, room, vocabulary, own_ends(model), target_room)


def own_ends(model: PreTrainedModel) -> tuple[int, ...]:
    """Return the token ids that end a text by the base model's own settings. There may be none or several."""
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return () if ends is None else tuple(ends) if isinstance(ends, list) else (ends,)
