"""What training leaves: stock PEFT adapters, written and read back; full fine-tuning leaves a whole model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softprompts.errors import UserError, nearest
from softprompts.files import filling
from softprompts.prompts.initial import encoder_of
from softprompts.runs import Run

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from peft import (
    MultitaskPromptTuningConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

ADAPTER = "adapter"
MODEL = "model"
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def folded(model: PeftModel, task: int | None = None) -> PeftModel:
    """Return a PEFT model over the same base whose soft prompt is what a prompt encoder, or a projection, writes.

    P-tuning and multitask prompt tuning become plain prompt tuning, a projected prefix a plain one: PEFT saves the
    outcome of an encoder under the encoder's own config, and what loads that into an encoder again puts it in front of
    the encoder. Anything else is returned as it is.

    Args:
        model: what has been trained.
        task: number of the task, for multitask prompt tuning.
    """
    config = model.active_peft_config
    common: dict[str, Any] = {
        "task_type": config.task_type,
        "num_virtual_tokens": getattr(config, "num_virtual_tokens", None),
        "num_transformer_submodules": getattr(config, "num_transformer_submodules", None),
    }
    with torch.no_grad():
        if isinstance(config, (PromptEncoderConfig, MultitaskPromptTuningConfig)):
            values = model.get_prompt(1, None if task is None else torch.tensor([task], device=model.device))[0]
            plain = get_peft_model(model.get_base_model(), PromptTuningConfig(**common))
        elif isinstance(config, PrefixTuningConfig) and config.prefix_projection:
            encoder = encoder_of(model)
            values = encoder(model.prompt_tokens[model.active_adapter].to(encoder.embedding.weight.device))
            plain = get_peft_model(model.get_base_model(), PrefixTuningConfig(**common))
        else:
            return model
        assert isinstance(plain, PeftModel)
        encoder_of(plain).embedding.weight.copy_(values)
    return plain


def save_adapter(model: PeftModel, run: Run, names: Sequence[str] = ()) -> Path:
    """Write `adapter/`, a stock PEFT adapter in safetensors, and return its folder; with `names`, one a task below it.

    Raises:
        UserError: the disk is full; something of the user's is there.
    """
    folder = run.folder / ADAPTER
    if run.accelerator.is_main_process:
        with filling(run.output(ADAPTER, fixed=True)) as temporary:
            for number, name in enumerate(names):
                folded(model, number).save_pretrained(str(temporary / name), safe_serialization=True)
            if not names:
                folded(model).save_pretrained(str(temporary), safe_serialization=True)
    run.accelerator.wait_for_everyone()
    return folder


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, run: Run) -> Path:
    """Write `model/`, all weights and the tokenizer, as `from_pretrained` loads them, and return its folder.

    Raises:
        UserError: the disk is full; something of the user's is there.
    """
    folder = run.folder / MODEL
    if run.accelerator.is_main_process:
        with filling(run.output(MODEL, fixed=True)) as temporary:
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
    run.accelerator.wait_for_everyone()
    return folder


@dataclass
class AdapterConfig:
    """A saved adapter, ours or anyone's from PEFT.

    Args:
        path: its folder, that of the run which wrote it, or a Hub id; without one the base model stands alone.
        any_base: take it although it was trained on a base model of another name.
        task_id: for an adapter of PEFT's multitask prompt tuning, which task's prompt to take.
    """

    path: str | None = None
    any_base: bool = False
    task_id: int = 0


def load_adapter(base: PreTrainedModel, config: AdapterConfig) -> PreTrainedModel | PeftModel:
    """Return the base model with the adapter on it, frozen; or the base model where there is none.

    Raises:
        UserError: no adapter there; another base model by name, hidden size or layers.
    """
    if config.path is None:
        return base
    folder = find_adapter(config.path)
    settings: Any = PeftConfig.from_pretrained(str(folder))
    check_base(base, settings, folder, config)
    try:
        model = PeftModel.from_pretrained(base, str(folder))
    except (RuntimeError, ValueError, OSError, SafetensorError) as error:
        first = " ".join(str(error).split())[:300]
        raise UserError(f"adapter.path: {folder} does not fit {base.name_or_path}: {first}") from None
    model.eval().requires_grad_(False)
    return model


def find_adapter(path: str) -> Path:
    """Return the folder of an adapter: the path itself, `adapter/` in the folder of a run, or a Hub id's download.

    Raises:
        UserError: there is none, or several.
    """
    folder = Path(path)
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
        return Path(snapshot_download(path, allow_patterns=[CONFIG, WEIGHTS]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        first_line = str(error).splitlines()[0]
        raise UserError(f"adapter.path: no such folder, and not on the Hub: {path}: {first_line}") from None


def find_model(path: str) -> Path | None:
    """Return the folder of a whole model, a path itself or `model/` in the folder of a run; None where it is none."""
    folder = Path(path)
    if any(folder.glob(f"**/{CONFIG}")):
        return None
    for place in (folder / MODEL, folder):
        file = place / "config.json"
        # A run writes its settings into a file of that name, too.
        if file.is_file() and '"recipe"' not in file.read_text(encoding="utf-8"):
            return place
    return None


def check_base(base: PreTrainedModel, settings: Any, folder: Path, config: AdapterConfig) -> None:
    """Raise `UserError` where an adapter belongs to another base model: by its sizes, or else by its name."""
    text = base.config.get_text_config()
    sizes = {"token_dim": ("hidden size", "hidden_size"), "num_layers": ("layers", "num_hidden_layers")}
    for field, (name, key) in sizes.items():
        theirs, ours = getattr(settings, field, None), getattr(text, key, None)
        # A prefix's width is that of its groups of heads, not the model's.
        if theirs is None or ours is None or (field == "token_dim" and isinstance(settings, PrefixTuningConfig)):
            continue
        if theirs != ours:
            raise UserError(
                f"adapter.path: {folder} is for another base model: its {name} is {theirs}, that of "
                f"{base.name_or_path} {ours} (it was trained on {settings.base_model_name_or_path})"
            )
    trained_on = Path(settings.base_model_name_or_path or "").name
    if trained_on and trained_on.lower() != Path(str(base.name_or_path)).name.lower() and not config.any_base:
        raise UserError(
            f"adapter.path: {folder} was trained on {settings.base_model_name_or_path}, not on {base.name_or_path}; "
            "if they are the same model, set adapter.any_base to true"
        )
    tasks = settings.num_tasks or 1 if isinstance(settings, MultitaskPromptTuningConfig) else 1
    if not 0 <= config.task_id < tasks:
        raise UserError(f"adapter.task_id: {config.task_id} is not between 0 and {tasks - 1}")


def without_adapter(model: PreTrainedModel | PeftModel) -> AbstractContextManager[Any]:
    """Within this context the model answers as its base model does."""
    return model.disable_adapter() if isinstance(model, PeftModel) else nullcontext()


def virtual_tokens(model: PreTrainedModel | PeftModel) -> int:
    """Return how many positions an adapter's soft prompt takes; 0 without one."""
    config = model.active_peft_config if isinstance(model, PeftModel) else None
    return getattr(config, "num_virtual_tokens", None) or 0


def run_settings(path: str) -> dict[str, Any]:
    """Return the settings of the run that wrote an adapter; empty where its folder is not that of a run."""
    for folder in (Path(path), Path(path).parent, Path(path).parent.parent) if path else ():
        if (folder / "config.json").is_file() and (folder / ADAPTER).is_dir():
            settings: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            return settings
    return {}


def saved_parameters(files: Sequence[Path]) -> int:
    """Return the number of scalars in safetensors files."""
    total = 0
    for file in files:
        with safe_open(str(file), "pt") as tensors:
            total += sum(tensors.get_tensor(name).numel() for name in tensors.keys())  # noqa: SIM118
    return total
