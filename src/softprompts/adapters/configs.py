"""An adapter's config: is the file one, and is the adapter for this base model."""

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
# What would make PEFT import a module, or read other files, that the config names.
REACHES_OUT = {"megatron_config": "imports the module that megatron_core names", "adapters": "loads further adapters"}
# Ways in which LoRA begins, by how their names begin, whose loaded model is not the one that was saved: training
# changes the base model's weights, and loading either does not, or does it otherwise.
BEGINNINGS = {
    "pissa_niter": "PEFT draws at random what it takes from the base model's weights, anew whenever it is loaded",
    "corda": "PEFT takes from the base model's weights what only the data of its training tells",
    "lora_ga": "its training changed the base model's weights, and PEFT does not when it is loaded",
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
        UserError: no JSON object; no type of adapter, or one that PEFT does not know; a kind of task that it does not
            know; a value of the wrong type; what else PEFT refuses; an adapter that would load or run other files; one
            that does not load as what was saved, or that is at work behind certain tokens only.
    """
    file = folder / CONFIG
    read = _read_object(file)
    _check_types(file, read)
    _check_values(file, read, TYPES[read["peft_type"]])
    for key, what in REACHES_OUT.items():
        if read.get(key):
            raise UserError(f"adapter.path: {file}: {key}: such an adapter {what}; it is not taken")
    _check_lora(file, read)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Unexpected keyword arguments")  # for `unknown_keys` to say
            config = PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # whatever PEFT makes of a stranger's file
        raise UserError(f"adapter.path: {file}: {first_line(error)}") from None
    if isinstance(config, MultitaskPromptTuningConfig):
        # Else PEFT would first read the file that training began with, and then overwrite all of it.
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
            raise UserError(f"adapter.path: {file} has no peft_type, which says what kind of adapter it is")
        if value is not None and value not in known:
            raise UserError(f'adapter.path: {file}: {key}: PEFT knows no "{value}"{nearest(str(value), known)}')


def unknown_keys(settings: PeftConfig, folder: Path) -> list[str]:
    """Return what an adapter's config sets, a newer version's option say, that this version of PEFT does not know."""
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
                f"adapter.path: {file}: init_lora_weights {way}: {why}; make it a plain LoRA where it was trained, by "
                "save_pretrained(path_initial_model_for_weight_conversion=...)"
            )
    if read.get("alora_invocation_tokens"):
        raise UserError(
            f"adapter.path: {file}: alora_invocation_tokens: such an adapter is at work only behind these tokens of a "
            "prompt, and no prompt gets them here; it is not taken"
        )


def _fits(value: Any, hint: Any) -> bool:
    """Say whether a value is of a type, where that is a number or true and false; other types are PEFT's to check."""
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(hint) if one is not NoneType)
    if hint is bool:
        return isinstance(value, bool)
    if hint in (int, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return True


def fit_task(settings: PeftConfig, base: PretrainedConfig, folder: Path) -> None:
    """Check that an adapter is for what the base model does; one that does not say gets that kind of task.

    Raises:
        UserError: it is for something else, a classifier on a decoder say.
    """
    kind = kind_of(base)
    own = TASK_TYPES[kind]
    if settings.task_type is None:
        settings.task_type = own
    if settings.task_type != own:
        named = getattr(settings.task_type, "value", settings.task_type)
        raise UserError(
            f"adapter.path: {folder} is for {named} (its task_type), but the base model is a {kind} that {USES[kind]}: "
            f"{own.value}"
        )


def check_base(base: Any, settings: Any, *, folder: Path, config: AdapterConfig, record: Record) -> None:
    """Refuse an adapter of another base model by what the base's config and name say: no weights are needed.

    Raises:
        UserError: it is for another kind of model, other sizes, or, if it does not tell the weights, another name; it
            has no task of that number.
    """
    fit_task(settings, base.config, folder)
    theirs = [("num_hidden_layers", getattr(settings, "num_layers", None))]
    if not isinstance(settings, (PrefixTuningConfig, CartridgeConfig)):  # as wide as the groups of heads, not the model
        theirs.append(("hidden_size", getattr(settings, "token_dim", None)))
    ours: dict[str, Any] = sizes_of(base.config) | {"model_type": base.config.model_type}
    if record.base:
        theirs += [*record.base.sizes.items(), ("model_type", record.base.architecture)]
    for key, value in theirs:
        if value is not None and ours.get(key) is not None and value != ours[key]:
            raise UserError(
                f"adapter.path: {folder} is for another base model: its {NAMES[key]} is {value}, that of "
                f"{base.name_or_path} {ours[key]} (it was trained on {settings.base_model_name_or_path})"
            )
    if not (record.base and record.base.weights) and not config.any_base:
        _same_name(str(base.name_or_path), settings.base_model_name_or_path, folder)
    tasks = settings.num_tasks or 1 if isinstance(settings, MultitaskPromptTuningConfig) else 1
    if not 0 <= config.task_id < tasks:
        raise UserError(f"adapter.task_id: {config.task_id} is not between 0 and {tasks - 1}")


def _same_name(ours: str, trained_on: str | None, folder: Path) -> bool:
    """Say whether names show that an adapter was trained on this base model; refuse it if they show that it was not."""
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
    """Refuse an adapter of a base model of the same sizes that is another one; warn if nothing tells which it was.

    Raises:
        UserError: other weights, another config or tokenizer; if weights cannot be compared, another name.
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
                f"adapter.path: {folder} was trained on {trained_on}, and {base.name_or_path} has {others[0]}; "
                "if it is to be put on it all the same, set ",
                Key("adapter.any_base"),
                " to true",
            )
        if "chat template" in other_parts(record.base.tokenizer, identity.tokenizer):
            warn(
                f"adapter.path: {folder} was trained on {trained_on} with another chat template than "
                f"{base.name_or_path} has"
            )
    if same is None and not _same_name(str(base.name_or_path), trained_on, folder):
        warn(
            f"adapter.path: {folder} was trained on {trained_on or 'a model that it does not name'}; whether that is "
            f"{base.name_or_path} cannot be checked"
        )


def _others(before: Identity, now: Identity) -> list[str]:
    """Say what of a base model's config or tokenizer is another, apart from its chat template."""
    parts = [part for part in other_parts(before.tokenizer, now.tokenizer) if part != "chat template"]
    fields = [f"{key} {is_} in its config, which was {was}" for key, was, is_ in differences(before.config, now.config)]
    return [*fields, *(f"another tokenizer, by its {part}" for part in parts)]


def first_line(error: Exception) -> str:
    """Return what an error says, in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
