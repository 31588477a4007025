"""Load the frozen base model and its tokenizer, and count parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from softprompts.config.sections import ModelConfig
from softprompts.errors import UserError, warn
from softprompts.models.bundled import resolve
from softprompts.models.identity import identity_of
from softprompts.models.outputs import outputs_of, two_or_more
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


def model_path(config: ModelConfig) -> str:
    """Return the folder or Hub id behind `name_or_path`; a bundled model is made where it is missing.

    Raises:
        UserError: unknown bundled name; a folder that is missing or holds no model.
    """
    path = resolve(config.name_or_path)
    folder = Path(path)
    adapter = (folder / "adapter_config.json").is_file()
    if folder.exists() and not (folder / "config.json").is_file():
        if adapter:
            raise UserError(f"model.name_or_path: {path} is an adapter; name its base model here")
        raise UserError(f"model.name_or_path: {path} is no model folder: it has no config.json")
    if adapter:  # transformers would load the base model that it names in place of this one, and put it on
        raise UserError(
            f"model.name_or_path: {path} holds a model and an adapter (adapter_config.json); keep them in two folders"
        )
    if not folder.exists() and (path.startswith((".", "/", "~")) or path.count("/") > 1):
        raise UserError(f"model.name_or_path: no such folder: {path}")
    return path


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

    `identity` of the model says what was loaded. An encoder without a classifier gets one with an output for each of
    `choices`, with random weights: `new_parts` of the model names the modules that have to be trained. For an encoder
    `choice_outputs` says which output each choice has, by the names in its config.

    Raises:
        UserError: unknown bundled name; a folder that holds no model; a Hub id that cannot be had; weights that are
            missing; no bitsandbytes for this device; a model that brings code of its own; a decoder that was made to
            classify; an encoder without two choices, or whose classifier has outputs of other names.
    """
    path = model_path(config)
    dtype = dtype_of(config, device)
    quantization = None
    if config.quantization == "nf4":
        quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    elif config.quantization == "int8":
        quantization = BitsAndBytesConfig(load_in_8bit=True)
    own = load_model_config(config)
    kind = kind_of(own)
    made_for = (own.architectures or [""])[0]
    if kind != "encoder" and made_for.endswith(HEADS):
        raise UserError(f"model.name_or_path: {path} is a {made_for}: it classifies and has no words to answer with")
    names = two_or_more(choices, path) if kind == "encoder" else []
    labels = {"num_labels": len(names)} if names else {}
    with silent_transformers():
        check_generation(path)
        with reading(path, lambda place: _build(place, kind), [CONFIG]):
            try:
                loaded: Any = AUTO[kind].from_pretrained(
                    path,
                    revision=config.revision,
                    dtype=dtype,
                    quantization_config=quantization,
                    device_map={"": device} if quantization else None,
                    trust_remote_code=False,
                    output_loading_info=True,
                    **labels,
                )
            except RuntimeError as error:
                if names and own.num_labels != len(names) and "ignore_mismatched_sizes" in str(error):
                    outputs_of(names, _output_names(own), path)  # says what they are called
                raise
        model, loading = loaded
        check_ends(path, model)
        tokenizer = read_tokenizer(path, config.revision)
    # Transformers would go on with random numbers in their place; those of a new classifier are meant to be.
    new = {_part_of(k, model) for k in loading["missing_keys"]} if names else set()
    missing = sorted(k for k in loading["missing_keys"] if not names or _part_of(k, model) is None)
    if missing:
        raise UserError(f"model.name_or_path: {path} lacks {len(missing)} weights, the first: {missing[0]}")
    if idle := idle_weights(loading["unexpected_keys"], kind == "encoder"):
        warn(
            f"model.name_or_path: {path} holds {len(idle)} weights that its config.json has no place for, and nothing "
            f"reads, the first: {idle[0]}"
        )
    model.new_parts = sorted(new)
    if names:
        name_outputs(model, names)
    model.identity = identity_of(model, model.new_parts, tokenizer)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    # With dropout active, or weights that still ask for a gradient, "frozen" would be a word only.
    model.eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(settings := getattr(module, "config", None), PretrainedConfig):  # an encoder's may be a copy
            # All else here reads outputs by their names, and neither attention nor hidden states.
            settings.return_dict, settings.output_attentions, settings.output_hidden_states = True, False, False
    keep_four_bit_weights(model)
    if quantization is None:
        nn.Module.to(model, device)  # bitsandbytes has placed its own
    return model, tokenizer


def _build(place: str, kind: Kind) -> None:
    """Build the model of a folder's config without its weights: on PyTorch's meta device."""
    with torch.device("meta"):
        AUTO[kind].from_config(AutoConfig.from_pretrained(place, trust_remote_code=False))


def _part_of(key: str, model: PreTrainedModel) -> str | None:
    """Return the part of a classifier that a weight belongs to, its pooler included; None for the encoder's own."""
    if ".pooler." in key:
        return "pooler"
    return None if key.startswith(f"{model.base_model_prefix}.") else key.split(".")[0]


def name_outputs(
    model: Any, choices: Sequence[str], names: Sequence[str] | None = None, whose: str | None = None
) -> None:
    """Bind the outputs of an encoder's classifier to the choices: `choice_outputs` of the model is the order to read.

    Args:
        model: the encoder. A classifier that it came with has its outputs' names in the config; those of a new one are
            named here.
        choices: the task's, in the order of the targets' numbers.
        names: what the outputs of a classifier mean that an adapter brings; by default the choices.
        whose: what brings it, for the message; by default the model.

    Raises:
        UserError: the outputs have other names than the choices.
    """
    if set(model.new_parts) - {"pooler"}:
        own = [name.strip() for name in names or choices]
        model.config.id2label = dict(enumerate(own))
        model.config.label2id = {name: number for number, name in enumerate(own)}
    model.choices = list(choices)
    model.choice_outputs = outputs_of(choices, names or _output_names(model.config), whose or str(model.name_or_path))


def _output_names(config: PretrainedConfig) -> list[str]:
    labels: Any = config.id2label
    return [str(labels.get(number, f"LABEL_{number}")) for number in range(len(labels))]


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
