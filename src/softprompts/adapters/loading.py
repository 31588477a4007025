"""What training leaves: stock PEFT adapters, written and read back; full fine-tuning leaves a whole model."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from softprompts.adapters.checks import (
    WEIGHTS,
    answer_to_probe,
    check_arrived,
    check_classifier,
    check_effect,
    check_sizes,
    keeps_base,
    read_weights,
    samples_of,
)
from softprompts.adapters.configs import (
    CONFIG,
    check_base,
    check_identity,
    first_line,
    read_config,
    unknown_keys,
)
from softprompts.config.paths import ADAPTER, MODEL
from softprompts.config.tools import AdapterConfig
from softprompts.errors import UserError, listed, nearest, warn
from softprompts.models.identity.base_model import RECORD, Record, read_record
from softprompts.models.identity.facts import facts_of, name_outputs
from softprompts.models.loading import kind_of

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from peft import PeftModel
from transformers import PreTrainedModel


def load_adapter(base: PreTrainedModel, config: AdapterConfig) -> PreTrainedModel | PeftModel:
    """Return the base model with the adapter on it, frozen; or the base model where there is none.

    An adapter that the base model answers the same with as without is taken, with a warning; so is one that changes the
    base model itself, for which `has_base` says false.

    Raises:
        UserError: no adapter there, or a damaged one; another base model by its kind, sizes, weights, config,
            tokenizer or name; tensors
            that the file lacks, or that the model has no place for; an adapter without any effect; a classifier with
            random weights, or one whose outputs have other names than the choices.
    """
    if config.path is None:
        if parts := facts_of(base).new_parts:
            raise UserError(
                f"model.name_or_path: {base.name_or_path} comes without a trained {parts[0]}: its answers would be "
                "random; name the adapter that brings one, or a model that full fine-tuning left"
            )
        return base
    folder = find_adapter(config.path)
    settings, record = read_config(folder), read_record(folder)
    check_base(base, settings, folder=folder, config=config, record=record)
    check_identity(base, settings, folder=folder, config=config, record=record)
    if kind_of(base.config) == "encoder":
        _name_outputs(base, folder, record)
    tensors = read_weights(folder)
    check_sizes(settings, tensors, folder)
    try:
        before, samples = answer_to_probe(base, settings, config.task_id), samples_of(base)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # `check_arrived` says it
            model: Any = PeftModel.from_pretrained(base, str(folder), config=settings)
        model.eval().requires_grad_(False)
        check_classifier(base, folder)
        check_arrived(model, tensors, folder)
        check_effect(model, before, task_id=config.task_id, folder=folder)
        facts_of(base).kept = keeps_base(model, before=before, samples=samples, task_id=config.task_id, folder=folder)
    except UserError:
        raise
    except Exception as error:  # whatever PEFT and the model make of a stranger's adapter
        lacks = "it lacks " if isinstance(error, KeyError) else ""
        raise UserError(
            f"adapter.path: {folder} does not fit {base.name_or_path}: {lacks}{first_line(error)}"
        ) from None
    if unknown := unknown_keys(settings, folder):
        warn(f"adapter.path: {folder / CONFIG}: this version of PEFT does not know {listed(unknown)}, and ignores it")
    return cast(PeftModel, model)


def find_adapter(path: str) -> Path:
    """Return the folder of an adapter: the path itself, `adapter/` in the folder of a run, or a Hub id's download.

    Raises:
        UserError: there is none, or several.
    """
    folder = Path(path).expanduser()
    for place in (folder, folder / ADAPTER):
        if (place / CONFIG).is_file():
            if not (place / WEIGHTS).is_file():
                raise UserError(f"adapter.path: {place} has no {WEIGHTS}; pickled weights are not loaded")
            return place
    if folder.is_dir():
        if whole := find_model(path):
            raise UserError(f"adapter.path: {whole} is a whole model; give it as model.name_or_path")
        inner = sorted(str(p.parent) for p in folder.glob(f"**/{CONFIG}"))
        several = f"; there are: {', '.join(inner)}" if inner else ""
        raise UserError(f"adapter.path: {path} is no adapter: it has no {CONFIG}{several}")
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        near = nearest(path, [str(p.parent) for p in Path().glob(f"runs/**/{CONFIG}")])
        raise UserError(f"adapter.path: no such folder: {path}{near}")
    try:
        return Path(snapshot_download(path, allow_patterns=[CONFIG, WEIGHTS, RECORD]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise UserError(f"adapter.path: no such folder, and not on the Hub: {path}: {first_line(error)}") from None


def find_model(path: str) -> Path | None:
    """Return the folder of a whole model, a path itself or `model/` in the folder of a run; None where it is none."""
    folder = Path(path)
    if any(folder.glob(f"**/{CONFIG}")):
        return None
    for place in (folder / MODEL, folder):
        file = place / "config.json"
        # A run writes its settings into a file of that name, too.
        if file.is_file() and b'"recipe"' not in file.read_bytes():
            return place
    return None


def _name_outputs(base: Any, folder: Path, record: Record) -> None:
    """Bind the outputs of an encoder's classifier, which an adapter may bring, to the task's choices by their names."""
    facts = facts_of(base)
    names = record.choices or _choices_of_run(folder, facts.choices)
    if facts.new_classifier and names is None:
        raise UserError(
            f"adapter.path: {folder} does not say which output of its classifier is which choice; write their names "
            f'into {folder / RECORD}, in the order of the outputs: {{"choices": ["...", "..."]}}'
        )
    if names is not None:
        name_outputs(base, facts.choices, names, str(folder))


def _choices_of_run(folder: Path, choices: Sequence[str]) -> list[str] | None:
    """Return the choices of the run that wrote an adapter before adapters kept them, in the order of the outputs."""
    listed = run_settings(str(folder)).get("task", {}).get("choices")
    if isinstance(listed, dict):
        listed = list(dict.fromkeys(listed.values()))  # two labels may share a word
    return sorted(choices) if listed == "from_train" else listed


def virtual_tokens(model: PreTrainedModel | PeftModel) -> int:
    """Return how many positions an adapter's soft prompt takes; 0 without one."""
    config = model.active_peft_config if isinstance(model, PeftModel) else None
    return getattr(config, "num_virtual_tokens", None) or 0


def run_settings(path: str) -> dict[str, Any]:
    """Return the settings of the run that wrote an adapter; empty where its folder is not that of a run.

    Raises:
        UserError: the file of settings is damaged.
    """
    for folder in (Path(path), Path(path).parent, Path(path).parent.parent) if path else ():
        file = folder / "config.json"
        if file.is_file() and (folder / ADAPTER).is_dir():
            try:
                settings: Any = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError) as error:
                raise UserError(f"adapter.path: cannot read {file}: {str(error).splitlines()[0]}") from None
            if not isinstance(settings, dict) or "recipe" not in settings:
                return {}  # somebody else's file
            task = settings.get("task", {})
            if not isinstance(task, dict) or not _of_a_run(task):
                raise UserError(f"adapter.path: {file} is damaged: task is not that of a run")
            if task.get("choices") == "from_train":  # which they were, a classifier's adapter knows
                records = (read_record(place) for place in (Path(path), Path(path) / ADAPTER))
                task["choices"] = next((record.choices for record in records if record.choices), "from_train")
            return settings
    return {}


def _of_a_run(task: dict[str, Any]) -> bool:
    choices = task.get("choices")
    words = choices.values() if isinstance(choices, dict) else choices if isinstance(choices, list) else []
    texts = [task.get("prompt", ""), task.get("target", ""), task.get("system") or "", *words]
    return all(isinstance(text, str) for text in texts) and isinstance(task.get("chat", False), bool)
