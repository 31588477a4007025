"""Find a trained adapter and put it on its base model."""

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
    memory_limit,
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
    """Return the base model with the adapter on it, frozen; without `config.path` the base model itself.

    An adapter that does not change the output is accepted with a warning. So is an adapter that changes the base model
    itself; `has_base` is then false.

    Raises:
        UserError: the adapter is missing or damaged; its base model has another kind, size, weights, config, tokenizer
            or name; the file and the model differ in their tensors; the adapter cannot have an effect; the classifier
            is untrained, or its outputs have other names than the choices.
    """
    if config.path is None:
        if parts := facts_of(base).new_parts:
            raise UserError(
                f"model.name_or_path: {base.name_or_path} comes without a trained {parts[0]}, so predictions would be "
                "random; name an adapter that contains one, or a model of full fine-tuning"
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
        with memory_limit(base, tensors), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # `check_arrived` reports them
            model: Any = PeftModel.from_pretrained(base, str(folder), config=settings)
        model.eval().requires_grad_(False)
        check_classifier(base, folder)
        check_arrived(model, tensors, folder)
        check_effect(model, before, task_id=config.task_id, folder=folder)
        facts_of(base).kept = keeps_base(model, before=before, samples=samples, task_id=config.task_id, folder=folder)
    except UserError:
        raise
    except Exception as error:  # PEFT and the model raise many kinds of errors for a foreign adapter
        lacks = "it lacks " if isinstance(error, KeyError) else ""
        raise UserError(
            f"adapter.path: {folder} does not fit {base.name_or_path}: {lacks}{first_line(error)}"
        ) from None
    if unknown := unknown_keys(settings, folder):
        warn(f"adapter.path: {folder / CONFIG}: this version of PEFT ignores the unknown {listed(unknown)}")
    return cast(PeftModel, model)


def find_adapter(path: str) -> Path:
    """Return the folder of an adapter: the path itself, `adapter/` in a run's folder, or a download from the Hub.

    A path below a folder that exists here is never an id of the Hub.

    Raises:
        UserError: there is no adapter, or there are several.
    """
    folder = Path(path).expanduser()
    for place in (folder, folder / ADAPTER):
        if (place / CONFIG).is_file():
            if not (place / WEIGHTS).is_file():
                raise UserError(f"adapter.path: {place} has no {WEIGHTS}; pickled weights are not loaded")
            return place
    if folder.is_dir():
        if whole := find_model(path):
            raise UserError(f"adapter.path: {whole} is a whole model; set model.name_or_path to it")
        inner = sorted(p.parent.relative_to(folder) for p in folder.glob(f"**/{CONFIG}"))
        several = f"; adapters below it: {listed(inner)}" if inner else ""
        raise UserError(f"adapter.path: {path} is not an adapter: it has no {CONFIG}{several}")
    # A name such as runs/sentimnt has the form of a Hub id, whose owner could be anybody.
    if path.startswith((".", "/", "~")) or path.count("/") != 1 or folder.parent.is_dir():
        raise UserError(f"adapter.path: no such folder: {path}{_nearest_run(path)}")
    try:
        return Path(snapshot_download(path, allow_patterns=[CONFIG, WEIGHTS, RECORD]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise UserError(
            f"adapter.path: no such folder, and not on the Hub: {path}{_nearest_run(path)}: {first_line(error)}"
        ) from None


def _nearest_run(path: str) -> str:
    """Return `nearest` of a path among the adapters below `runs`, and the folders of their runs."""
    folders = [p.parent for p in Path().glob(f"runs/**/{CONFIG}")]
    return nearest(path, {str(f.parent if f.name == ADAPTER and not path.endswith(ADAPTER) else f) for f in folders})


def find_model(path: str) -> Path | None:
    """Return the folder of a whole model: the path itself, or `model/` in a run's folder; None if neither is one."""
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
    """Match the outputs of an encoder's classifier with the task's choices by name."""
    facts = facts_of(base)
    names = record.choices or _choices_of_run(folder, facts.choices)
    if facts.new_classifier and names is None:
        raise UserError(
            f"adapter.path: {folder} does not name the choices of its classifier's outputs; write the names "
            f'into {folder / RECORD}, in the order of the outputs: {{"choices": ["...", "..."]}}'
        )
    if names is not None:
        name_outputs(base, facts.choices, names, str(folder))


def _choices_of_run(folder: Path, choices: Sequence[str]) -> list[str] | None:
    """Return the choices in the order of the outputs, from the run's settings; older adapters lack them."""
    listed = run_settings(str(folder)).get("task", {}).get("choices")
    if isinstance(listed, dict):
        listed = list(dict.fromkeys(listed.values()))  # labels may share a word
    return sorted(choices) if listed == "from_train" else listed


def virtual_tokens(model: PreTrainedModel | PeftModel) -> int:
    """Return the number of positions of an adapter's soft prompt; 0 without one."""
    config = model.active_peft_config if isinstance(model, PeftModel) else None
    return getattr(config, "num_virtual_tokens", None) or 0


def run_settings(path: str) -> dict[str, Any]:
    """Return the settings of the run that wrote an adapter; empty if its folder does not belong to a run.

    Raises:
        UserError: the settings file is damaged.
    """
    for folder in _places_of_run(path):
        file = folder / "config.json"
        if file.is_file() and (folder / ADAPTER).is_dir():
            try:
                settings: Any = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError) as error:
                raise UserError(f"adapter.path: cannot read {file}: {str(error).splitlines()[0]}") from None
            if not isinstance(settings, dict) or "recipe" not in settings:
                return {}  # another program's file
            task = settings.get("task", {})
            if not isinstance(task, dict) or not _of_a_run(task):
                raise UserError(f"adapter.path: {file} is damaged: its task is not valid")
            _check_evaluation(settings.get("evaluation", {}), file)
            if task.get("choices") == "from_train":  # the adapter records them
                records = (read_record(place) for place in (Path(path), Path(path) / ADAPTER))
                task["choices"] = next((record.choices for record in records if record.choices), "from_train")
            return settings
    return {}


def _places_of_run(path: str) -> list[Path]:
    """Return the folders in which an adapter's run may be: the path and two above, links resolved and as written."""
    if not path:
        return []
    written = Path(path).expanduser().absolute()
    return [place for start in (written.resolve(), written) for place in (start, *start.parents[:2])]


def _check_evaluation(evaluation: Any, file: Path) -> None:
    stop = evaluation.get("stop") or [] if isinstance(evaluation, dict) else None
    if not isinstance(stop, list) or not all(isinstance(text, str) and text for text in stop):
        raise UserError(f"adapter.path: {file} is damaged: its evaluation.stop is not a list of texts")
    most = evaluation.get("max_new_tokens")
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise UserError(f"adapter.path: {file} is damaged: its evaluation.max_new_tokens is {most}; expected 1 or more")


def _of_a_run(task: dict[str, Any]) -> bool:
    choices = task.get("choices")
    words = choices.values() if isinstance(choices, dict) else choices if isinstance(choices, list) else []
    texts = [task.get("prompt", ""), task.get("target", ""), task.get("system") or "", *words]
    return all(isinstance(text, str) for text in texts) and isinstance(task.get("chat", False), bool)
