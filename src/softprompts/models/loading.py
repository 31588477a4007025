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

# A decoder continues a text, an encoder-decoder answers it, an encoder chooses between labels with a classifier on top.
Kind = Literal["decoder", "encoder-decoder", "encoder"]
AUTO: dict[Kind, Any] = {
    "decoder": AutoModelForCausalLM,
    "encoder-decoder": AutoModelForSeq2SeqLM,
    "encoder": AutoModelForSequenceClassification,
}
# What the names of models end in that were made to classify; the weights of their heads are often called alike.
HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice")


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of scalar parameters. A 4-bit base counts its packed values once each, as PEFT does."""

    total: int
    trainable: int


def kind_of(config: PretrainedConfig) -> Kind:
    """Return what kind of model a config describes; what is neither of the other two counts as a decoder."""
    if config.is_encoder_decoder:
        return "encoder-decoder"
    names = config.architectures or [""]
    decodes = getattr(config, "is_decoder", False) or names[0].endswith(("ForCausalLM", "LMHeadModel"))
    return "encoder" if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not decodes else "decoder"


def load_model_config(config: ModelConfig) -> PretrainedConfig:
    """Return the base model's own config: a few kilobytes, without the weights.

    Raises:
        UserError: as `model_path`; a Hub id that cannot be had; a settings file that is no JSON object; a config that
            transformers does not know; one that asks for code that is not transformers' own.
    """
    path = model_path(config)
    found = read_config(path, config.revision)
    for part in (found, found.get_text_config()):
        if "/" in attention_name(part):  # whose code transformers would fetch from the Hub
            raise UserError(
                f"model.name_or_path: {path} asks for code of others ({attention_name(part)}, in its config), and "
                "this project runs none; take attn_implementation out of its config.json"
            )
    return found


def dtype_of(config: ModelConfig, device: torch.device) -> torch.dtype:
    """Return the type that the base model's weights get on a device.

    `auto` asks for instructions: a CPU without them computes in bfloat16 all the same, and takes minutes for what takes
    seconds in 32 bits (docs/lab-log.md).
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

    `facts_of` the model says what was loaded. An encoder without a classifier gets one with an output for each of
    `choices`, with random weights.

    Raises:
        UserError: unknown bundled name; a folder that holds no model; a Hub id that cannot be had; weights that are
            missing; no bitsandbytes for this device; a model that brings code of its own; a decoder that was made to
            classify; an encoder without two choices, or whose classifier has outputs of other names; quantised
            weights, and FSDP.
    """
    path, own = model_path(config), load_model_config(config)
    kind = kind_of(own)
    made_for = (own.architectures or [""])[0]
    if kind != "encoder" and made_for.endswith(HEADS):
        raise UserError(f"model.name_or_path: {path} is a {made_for}: it classifies and has no words to answer with")
    names = two_or_more(choices, path) if kind == "encoder" else []
    with silent_transformers():
        check_generation(path)
        model, loading = _load_weights(path, config, device, own, names)
        check_ends(path, model)
        tokenizer = read_tokenizer(path, config.revision)
    settle(model)
    facts = facts_of(model)
    facts.config = config
    facts.new_parts = _new_parts(path, model, loading, kind)
    if names:
        name_outputs(model, names)
    facts.identity = identity_of(model, facts.new_parts, tokenizer, labels=facts.own_labels)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    _freeze(model)
    if config.quantization == "none":
        nn.Module.to(model, device)  # bitsandbytes has placed its own
    return model, tokenizer


def _load_weights(
    path: str, config: ModelConfig, device: torch.device, own: PretrainedConfig, names: Sequence[str]
) -> tuple[Any, dict[str, Any]]:
    """Return the model, on the device if it is quantised, and what transformers says of its weights' names.

    Args:
        path: folder or Hub id.
        config: the base model's settings.
        device: where it is to compute.
        own: the config that it came with.
        names: of the outputs of an encoder's classifier; none for other kinds of model.
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
                output_loading_info=True,
                **({"device_map": {"": device}} if quantization else {}),
                **({"num_labels": len(names)} if names else {}),
                **shards,
            )
        except RuntimeError as error:
            if names and own.num_labels != len(names) and "ignore_mismatched_sizes" in str(error):
                outputs_of(names, output_names(own), path)  # says what they are called
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
    """Return the parts of an encoder's classifier that its folder lacks; warn of weights that nothing reads.

    Raises:
        UserError: other weights are missing: transformers would go on with random numbers in their place.
    """
    parts = {key: _part_of(key, model) if kind == "encoder" else None for key in loading["missing_keys"]}
    if missing := sorted(key for key, part in parts.items() if part is None):
        raise UserError(f"model.name_or_path: {path} lacks {len(missing)} weights, the first: {missing[0]}")
    if idle := idle_weights(loading["unexpected_keys"], kind == "encoder"):
        warn(
            f"model.name_or_path: {path} holds {len(idle)} weights that its config.json has no place for, and nothing "
            f"reads, the first: {idle[0]}"
        )
    return tuple(sorted({part for part in parts.values() if part is not None}))


def _freeze(model: PreTrainedModel) -> None:
    # With dropout active, or weights that still ask for a gradient, "frozen" would be a word only.
    model.eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(settings := getattr(module, "config", None), PretrainedConfig):  # an encoder's may be a copy
            # All else here reads outputs by their names, and neither attention nor hidden states.
            settings.return_dict, settings.output_attentions, settings.output_hidden_states = True, False, False
    keep_four_bit_weights(model)


def _build(place: str, kind: Kind) -> None:
    """Build the model of a folder's config without its weights: on PyTorch's meta device."""
    with torch.device("meta"):
        AUTO[kind].from_config(AutoConfig.from_pretrained(place, trust_remote_code=False))


def _part_of(key: str, model: PreTrainedModel) -> str | None:
    """Return the part of a classifier that a weight belongs to, its pooler included; None for the encoder's own."""
    if ".pooler." in key:
        return "pooler"
    return None if key.startswith(f"{model.base_model_prefix}.") else key.split(".")[0]


def default_device() -> torch.device:
    """Return the accelerator, if there is one, else the CPU: for a tool that runs as one process."""
    return torch.accelerator.current_accelerator() or torch.device("cpu")


def count_parameters(model: nn.Module) -> ParameterCount:
    """Count all parameters and those that train."""
    total = sum(p.numel() for p in model.parameters())
    return ParameterCount(total, sum(p.numel() for p in model.parameters() if p.requires_grad))


def position_table(model: PreTrainedModel) -> nn.Embedding | None:
    """Return the table of learned positions, beyond whose rows a model cannot read; None for one that computes them."""
    names = ("wpe", "embed_positions", "position_embeddings", "position_embedding")
    tables = (
        m for name, m in model.named_modules() if name.rpartition(".")[2] in names and isinstance(m, nn.Embedding)
    )
    return next(tables, None)


def max_positions(model: PreTrainedModel) -> int | None:
    """Return the longest sequence, in tokens, that the base model was built for; None if its config names no limit.

    RoBERTa and its kin count positions from behind the padding token's, so that fewer fit than their config says.
    """
    positions: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    table = position_table(model)
    if table is None:
        return positions
    rows = table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    return rows if positions is None else min(positions, rows)


@dataclass(frozen=True)
class InputSpec:
    """What a base model can read.

    kind: see `Kind`; room: tokens left beside the virtual ones, None if there is no limit; vocabulary: token ids that
    have an embedding, None if unknown; ends: token ids that end a text by the base model's own settings.
    """

    kind: Kind = "decoder"
    room: int | None = None
    vocabulary: int | None = None
    ends: tuple[int, ...] = ()


def input_spec(model: PreTrainedModel, virtual_tokens: int = 0) -> InputSpec:
    """Return what a base model can read beside so many virtual tokens; UserError if they leave no room."""
    kind, positions = kind_of(model.config), max_positions(model)
    room = None if positions is None else positions - virtual_tokens
    if virtual_tokens and room is not None and room < 1:
        raise UserError(f"num_virtual_tokens: {virtual_tokens} leave no room in the {positions} positions of the model")
    tables: list[Any] = [model.get_input_embeddings(), None if kind == "encoder" else model.get_output_embeddings()]
    vocabulary = min(len(table.weight) for table in tables if isinstance(getattr(table, "weight", None), torch.Tensor))
    return InputSpec(kind, room, vocabulary, own_ends(model))


def own_ends(model: PreTrainedModel) -> tuple[int, ...]:
    """Return the token ids that end a text by the base model's own settings: one, several, or none."""
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return () if ends is None else tuple(ends) if isinstance(ends, list) else (ends,)
