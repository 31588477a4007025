"""Read an adapter's config, and check that the adapter belongs to this base model."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from softprompts.config.tools import AdapterConfig
from softprompts.errors import Key, UserError, nearest, warn
from softprompts.methods.attach import TASK_TYPES
from softprompts.models.identity.base_model import (
    SIZES,
    Identity,
    Record,
    identity_of,
    same_name,
    same_weights,
    sizes_of,
)
from softprompts.models.identity.facts import facts_of
from softprompts.models.identity.settings import differences, other_parts
from softprompts.models.loading import Kind, kind_of

from peft import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    CartridgeConfig,
    MultitaskPromptTuningConfig,
    MultitaskPromptTuningInit,
    PeftConfig,
    PrefixTuningConfig,
    TaskType,
)
from transformers import PretrainedConfig, PreTrainedModel

CONFIG = "adapter_config.json"
TYPES = {kind.value: config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
# Keys that make PEFT import a module, or read other files, that the config names.
REACHES_OUT = {"megatron_config": "imports the module that megatron_core names", "adapters": "loads further adapters"}
# Initialisations of LoRA, by the beginnings of their names, that cannot be loaded as they were saved: training changes
# the base model's weights, and loading does not repeat that change.
BEGINNINGS = {
    "pissa_niter": "PEFT splits the base model's weights at random, differently at each load",
    "corda": "PEFT splits the base model's weights by data that only the training had",
    "lora_ga": "training changed the base model's weights, and loading does not repeat that",
}
NAMES = SIZES | {"model_type": "architecture"}
USES: dict[Kind, str] = {
    "decoder": "continues a text",
    "encoder-decoder": "answers a text",
    "encoder": "chooses between labels",
}


def read_config(folder: Path) -> PeftConfig:
    """Return an adapter's config.

    Raises:
        UserError: the file is not a JSON object; its type of adapter or kind of task is missing or unknown; a value has
            the wrong type; PEFT refuses it; the adapter would load or run other files, would not load as it was saved,
            or works only after certain tokens.
    """
    file = folder / CONFIG
    read = _read_object(file)
    _check_types(file, read)
    _check_values(file, read, TYPES[read["peft_type"]])
    for key, what in REACHES_OUT.items():
        if read.get(key):
            raise UserError(f"adapter.path: {file}: {key}: such an adapter {what}, which is not supported")
    _check_lora(file, read)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Unexpected keyword arguments")  # `unknown_keys` reports them
            config = PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # PEFT raises many kinds of errors for a foreign file
        raise UserError(f"adapter.path: {file}: {first_line(error)}") from None
    if isinstance(config, MultitaskPromptTuningConfig):
        # Otherwise PEFT would first read the initial values' file, and then overwrite them all.
        config.prompt_tuning_init = MultitaskPromptTuningInit.RANDOM
    return config


def _read_object(file: Path) -> dict[str, Any]:
    try:
        read: Any = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"adapter.path: cannot read {file}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"adapter.path: {file} is malformed JSON: {str(error).splitlines()[0]}") from None
    if not isinstance(read, dict):
        raise UserError(f"adapter.path: {file}: expected a JSON object, found {type(read).__name__}")
    return read


def _check_types(file: Path, read: Mapping[str, Any]) -> None:
    for key, known in (("peft_type", list(TYPES)), ("task_type", [kind.value for kind in TaskType])):
        value = read.get(key)
        if value is None and key == "peft_type":
            raise UserError(f"adapter.path: {file} has no peft_type, the kind of the adapter")
        if value is not None and value not in known:
            raise UserError(f'adapter.path: {file}: {key}: PEFT does not know "{value}"{nearest(str(value), known)}')


def unknown_keys(settings: PeftConfig, folder: Path) -> list[str]:
    """Return the keys of an adapter's config that this version of PEFT does not know."""
    read: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    known = {field.name for field in fields(settings)}
    return sorted(key for key, value in read.items() if key not in known and value is not None and value is not False)


def _check_values(file: Path, read: Mapping[str, Any], kind: type) -> None:
    hints = get_type_hints(kind)
    for key, value in read.items():
        if key in hints and value is not None and not _fits(value, hints[key]):
            expected = " or ".join(h.__name__ for h in (get_args(hints[key]) or (hints[key],)) if h is not NoneType)
            raise UserError(f"adapter.path: {file}: {key}: expected {expected}, found {value!r}")


def _check_lora(file: Path, read: Mapping[str, Any]) -> None:
    way = read.get("init_lora_weights")
    for beginning, why in BEGINNINGS.items():
        if isinstance(way, str) and way.lower().startswith(beginning):
            raise UserError(
                f"adapter.path: {file}: init_lora_weights {way}: {why}; in the program that trained it, save a plain "
                "LoRA by save_pretrained(path_initial_model_for_weight_conversion=...)"
            )
    if read.get("alora_invocation_tokens"):
        raise UserError(
            f"adapter.path: {file}: alora_invocation_tokens: such an adapter works only after these tokens of a "
            "prompt, and prompts do not get them here; it is not supported"
        )


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a number or a boolean fits a type; PEFT checks all other types."""
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(hint) if one is not NoneType)
    if hint is bool:
        return isinstance(value, bool)
    if hint in (int, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return True


def fit_task(settings: PeftConfig, base: PretrainedConfig, folder: Path) -> None:
    """Check that an adapter's kind of task is the base model's; set it if the config names none.

    Raises:
        UserError: it is for another kind of task, for example a classifier on a decoder.
    """
    kind = kind_of(base)
    own = TASK_TYPES[kind]
    if settings.task_type is None:
        settings.task_type = own
    if settings.task_type != own:
        named = getattr(settings.task_type, "value", settings.task_type)
        raise UserError(
            f"adapter.path: {folder} has task_type {named}, but the base model is a {kind} that {USES[kind]}: expected "
            f"{own.value}"
        )


def check_base(base: Any, settings: Any, *, folder: Path, config: AdapterConfig, record: Record) -> None:
    """Refuse an adapter of another base model, by config and name. This works without the weights.

    Raises:
        UserError: the adapter is for another kind of model, for other sizes or, if it has no digest of the weights, for
            another name; it has no task of that number.
    """
    fit_task(settings, base.config, folder)
    theirs = [("num_hidden_layers", getattr(settings, "num_layers", None))]
    if not isinstance(settings, (PrefixTuningConfig, CartridgeConfig)):  # their width is that of the groups of heads
        theirs.append(("hidden_size", getattr(settings, "token_dim", None)))
    ours: dict[str, Any] = sizes_of(base.config) | {"model_type": base.config.model_type}
    if record.base:
        theirs += [*record.base.sizes.items(), ("model_type", record.base.architecture)]
    for key, value in theirs:
        if value is not None and ours.get(key) is not None and value != ours[key]:
            raise UserError(
                f"adapter.path: {folder} is for another base model: {NAMES[key]} {value}, but "
                f"{base.name_or_path} has {ours[key]} (the adapter was trained on {settings.base_model_name_or_path})"
            )
    if not (record.base and record.base.weights) and not config.any_base:
        _same_name(str(base.name_or_path), settings.base_model_name_or_path, folder)
    tasks = settings.num_tasks or 1 if isinstance(settings, MultitaskPromptTuningConfig) else 1
    if not 0 <= config.task_id < tasks:
        raise UserError(f"adapter.task_id: {config.task_id} is not between 0 and {tasks - 1}")


def _same_name(ours: str, trained_on: str | None, folder: Path) -> bool:
    """Return whether the names of the two base models are the same; refuse the adapter if they differ."""
    here = str(Path(ours).resolve()) if Path(ours).exists() else ours
    same = same_name(trained_on, here) if trained_on else None
    if same is False:
        raise UserError(
            f"adapter.path: {folder} was trained on {trained_on}, not on {ours}; if they are the same model, set ",
            Key("adapter.any_base"),
            " to true",
        )
    return bool(same)


def check_identity(
    base: PreTrainedModel, settings: Any, *, folder: Path, config: AdapterConfig, record: Record
) -> None:
    """Refuse an adapter of another base model of the same sizes; warn if its base model is unknown.

    Raises:
        UserError: the weights, the config or the tokenizer differ; or the name, if weights cannot be compared.
    """
    if config.any_base:
        return
    trained_on, same = settings.base_model_name_or_path, None
    if record.base:
        facts = facts_of(base)
        identity = facts.identity or identity_of(base, facts.new_parts)
        trained_on, same = record.base.name, same_weights(record.base, identity)
        others = ["other weights"] if same is False else _others(record.base, identity)
        if others:
            raise UserError(
                f"adapter.path: {folder} was trained on {trained_on}, but {base.name_or_path} has {others[0]}; "
                "to use it nevertheless, set ",
                Key("adapter.any_base"),
                " to true",
            )
        if "chat template" in other_parts(record.base.tokenizer, identity.tokenizer):
            warn(
                f"adapter.path: {folder} was trained on {trained_on} with another chat template than that of "
                f"{base.name_or_path}"
            )
    if same is None and not _same_name(str(base.name_or_path), trained_on, folder):
        warn(
            f"adapter.path: {folder} was trained on {trained_on or 'an unnamed model'}; nothing shows whether this is "
            f"{base.name_or_path}"
        )


def _others(before: Identity, now: Identity) -> list[str]:
    """Return the differences of two base models' configs and tokenizers, apart from chat templates."""
    parts = [part for part in other_parts(before.tokenizer, now.tokenizer) if part != "chat template"]
    fields = [f"{key} {is_} in its config instead of {was}" for key, was, is_ in differences(before.config, now.config)]
    return [*fields, *(f"another tokenizer (different {part})" for part in parts)]


def first_line(error: Exception) -> str:
    """Return the text of an error as one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
