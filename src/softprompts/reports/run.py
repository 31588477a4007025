"""Write the outputs of a run: record, predictions, curves and model card."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from softprompts.adapters.saving import saved_parameters, write_adapter
from softprompts.config.paths import ADAPTER, MODEL
from softprompts.evaluation.predict import Prediction, TestOutcome
from softprompts.models.bundled import BUNDLED, PREFIX
from softprompts.models.loading import AUTO, Kind, count_parameters, kind_of
from softprompts.models.sharding.layers import weights_together
from softprompts.reports.plots import plot_curves
from softprompts.reports.tables import markdown_table
from softprompts.runs.environment import environment, peak_memory_gib
from softprompts.runs.folders import RESULT_FILE
from softprompts.runs.record import Progress, Result, as_json, scored_prompt
from softprompts.runs.run import Run
from softprompts.system.files import filling, one_line, replacing, write_atomically
from softprompts.tasks.task import Task

from peft import (
    PeftModel,
)
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

PIPELINES: dict[Kind, str] = {
    "decoder": "text-generation",
    "encoder-decoder": "text2text-generation",
    "encoder": "text-classification",
}


def save_run(
    run: Run,
    task: Task,
    model: Any,
    outcome: TestOutcome,
    *,
    progress: Progress | None = None,
    adapter: Path | None = None,
    notes: dict[str, Any] | None = None,
) -> Result:
    """Write `predictions.jsonl`, `curves.png`, `README.md` and, last, `result.json`, which marks the run as finished.

    If a user's file has one of these names, it stays, and the output gets another name.

    Args:
        run: the run.
        task: the task of the scores.
        model: the model whose parameters are counted.
        outcome: its scores on the test split, or on the split in `evaluation.split`.
        progress: its training, if it was trained.
        adapter: folder of its adapter, or of the trained model, if there is one.
        notes: further notes of the recipe, as JSON values.
    """
    notes = (notes or {}) | ({"resumed": run.resumed} if run.resumed else {})
    if outcome.abstain_below is not None:
        notes |= {"abstain_below": outcome.abstain_below}
    result = _result(run, task, model, outcome, progress, adapter, notes)
    if run.accelerator.is_main_process:
        _write_predictions(outcome.predictions, task.choices, run.output("predictions.jsonl"))
        if progress:
            with replacing(run.output("curves.png")) as picture:
                plot_curves(result, picture)
        write_atomically(run.output("README.md"), card(result))
        if adapter:  # replaces PEFT's empty form
            write_atomically(adapter / "README.md", f"{front_matter(result)}\n{card(result, inside=True)}")
        write_atomically(run.folder / RESULT_FILE, as_json(result) + "\n")
    run.say(summary(result, run.folder))
    with one_line(f"run.trackers, in {run.accelerator.project_dir}"):
        run.accelerator.end_training()
    return result


def _result(
    run: Run,
    task: Task,
    model: Any,
    outcome: TestOutcome,
    progress: Progress | None,
    adapter: Path | None,
    notes: dict[str, Any],
) -> Result:
    count = count_parameters(model)
    saved = list(adapter.rglob("*.safetensors")) if adapter else []
    if adapter:
        notes = notes | {"saved": adapter.name, "kind": kind_of(model.config)}
        if notes["kind"] == "encoder":
            notes["outputs"] = len(task.choices or ())
    cost = {
        "seconds_total": time.perf_counter() - run.started,
        "seconds_training": progress.seconds if progress else 0.0,
        "cpu_seconds_training": progress.cpu_seconds if progress else 0.0,
        "seconds_testing": outcome.seconds,
        "peak_memory_gib": peak_memory_gib(),
        "adapter_bytes": float(sum(p.stat().st_size for p in saved)),
    }
    # The seconds of a sweep are those of all candidates that train together, and the tokens those of one.
    if progress and progress.seconds and "candidates" not in notes:
        cost["training_tokens_per_second"] = progress.tokens / progress.seconds
    if progress and progress.energy_kwh is not None:
        cost["energy_kwh"] = progress.energy_kwh
    return Result(
        recipe=run.recipe,
        task=task.name,
        settings=run.settings,
        seed=run.seed,
        metrics=outcome.metrics,
        baselines=outcome.baselines,
        test_loss=outcome.loss,
        parameters={"total": count.total, "trainable": count.trainable, "saved": saved_parameters(saved)},
        cost=cost,
        training=asdict(progress) if progress else {},
        notes=notes,
        data={"licence": task.licence, "splits": task.fingerprint()},
        environment=environment()
        | {
            "processes": run.accelerator.num_processes,
            "mixed_precision": run.accelerator.mixed_precision,
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        },
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _write_predictions(predictions: Sequence[Prediction], choices: Sequence[str] | None, path: Path) -> None:
    """Write one line per row. `choices` are the names of the scores, in their order."""
    named = [asdict(p) | {"choices": None if p.scores is None else choices} for p in predictions]
    write_atomically(path, "\n".join(json.dumps(line, ensure_ascii=False) for line in named) + "\n")


def summary(result: Result, folder: Path) -> str:
    """Return the lines that a recipe prints at its end."""
    lines = [
        f"{name} {x.value:.4f} (95 % interval {x.low:.4f} to {x.high:.4f}, {x.rows} {split_of(result)} rows)"
        for name, x in result.metrics.items()
    ]
    for name, metrics in result.baselines.items():
        lines += [f"{name} reaches {key} {x.value:.4f}" for key, x in metrics.items()]
    return "\n".join([*lines, f"written to {folder}"])


def split_of(result: Result) -> str:
    """Return the scored split."""
    split: str = result.settings.get("evaluation", {}).get("split", "test")
    return split


def front_matter(result: Result) -> str:
    """Return the metadata for the Hub at the head of an adapter's card; a folder is no base model of the Hub."""
    source, _ = _base_model(result)
    base = "" if Path(source).expanduser().is_dir() else f"base_model: {source}\n"
    library = "transformers" if result.notes.get("saved") == "model" else "peft"
    return f"---\n{base}library_name: {library}\npipeline_tag: {PIPELINES[result.notes['kind']]}\n---\n"


def _base_model(result: Result) -> tuple[str, str]:
    """Return the source of the base model, and its licence."""
    name = result.settings["model"]["name_or_path"]
    bundled = BUNDLED.get(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None
    return (bundled.source, f"{bundled.license}; {name}") if bundled else (name, "licence: see its own card")


def _how_to_load(result: Result, inside: bool) -> str:
    if scored := result.settings.get("adapter", {}).get("path"):
        return f"Nothing was trained here. This is the score of the adapter in `{scored}`.\n"
    if voters := result.settings.get("ensemble", {}).get("adapters"):
        return f"Nothing was trained here. This is the vote of the adapters in `{'`, `'.join(voters)}`.\n"
    if not result.parameters["saved"]:
        return "Nothing was trained and there is no adapter.\n"
    saved = result.notes["saved"]
    auto = AUTO[result.notes["kind"]].__name__
    root = Path() if inside else Path(saved)
    folders = [str(root / task) for task in result.notes.get("tasks", {})] or [str(root)]
    where = "this folder" if inside else f"the run's folder, which contains `{saved}/`"
    if saved == "model":
        lines = [
            f"from transformers import {auto}, AutoTokenizer",
            f"model = {auto}.from_pretrained({folders[0]!r})",
            f"tokenizer = AutoTokenizer.from_pretrained({folders[0]!r})",
        ]
        return _code(lines) + f"Run it in {where}. It loads a whole model with its tokenizer.\n"
    name, _ = _base_model(result)
    name = str(Path(name).resolve()) if Path(name).exists() else name
    revision, outputs = result.settings["model"].get("revision"), result.notes.get("outputs")
    version = f", revision={revision!r}" if revision else ""
    size = f", num_labels={outputs}" if outputs else ""
    lines = [
        "from peft import PeftModel",
        f"from transformers import {auto}, AutoTokenizer",
        f"base = {auto}.from_pretrained({name!r}{version}{size})",
        f"tokenizer = AutoTokenizer.from_pretrained({name!r}{version})",
        *(f"model = PeftModel.from_pretrained(base, {folder!r})" for folder in folders),
    ]
    what = "stock PEFT adapters" if len(folders) > 1 else "a stock PEFT adapter"
    bits = _bits(result)
    rounded = f"\nIt was trained on {bits} version of this base model, so scores may differ slightly.\n" if bits else ""
    return f"{_code(lines)}Run it in {where}. It loads {what} and requires only `peft` and `transformers`.\n{rounded}"


def _bits(result: Result) -> str:
    """Return the bits of the run's base model, such as "a 4-bit"; empty if its weights were not rounded to integers."""
    model = result.settings["model"]
    if model["name_or_path"].startswith(PREFIX):
        return "a 4-bit"
    return {"nf4": "a 4-bit (nf4)", "int8": "an 8-bit (int8)"}.get(model.get("quantization", "none"), "")


def _code(lines: Sequence[str]) -> str:
    return "```python\n" + "\n".join(lines) + "\n```\n\n"


def card(result: Result, inside: bool = False) -> str:
    """Return the README of an adapter: method, loading, scores and licences.

    Args:
        result: the record.
        inside: whether the README is in the adapter's own folder, and not in the run's folder.
    """
    base = "{} ({})".format(*_base_model(result))
    metrics = markdown_table(
        ["metric", split_of(result), "95 % interval", "rows"],
        [[key, f"{x.value:.4f}", f"{x.low:.4f} to {x.high:.4f}", str(x.rows)] for key, x in result.metrics.items()],
    )
    rows = f"{_masked(result)}{_left_out(result)}"
    return f"""# {result.recipe} on {result.task}

{_how_to_load(result, inside)}
- base model: {base}
- data: {result.task}, licence: {result.data["licence"]}
{rows}- trained parameters: {result.parameters["trainable"]:,} of {result.parameters["total"]:,}
{_templates(result)}- seed {result.seed}, commit {result.environment["commit"]}, finished {result.finished}

{metrics}

The whole record is in `result.json`, the predictions for the {split_of(result)} split are in `predictions.jsonl`.
"""


def _templates(result: Result) -> str:
    """Return the line of a card with the templates of prompt and target, and the number of few-shot examples."""
    template, shots = scored_prompt(result)
    examples = f", few-shot examples from train before each row: {shots:,}" if shots else ""
    return f"- prompt template: `{template!r}`, target: `{result.settings['task']['target']!r}`{examples}\n"


def _masked(result: Result) -> str:
    """Return a card's line with the kinds of masked personal data, without the values; empty if none were masked."""
    if result.settings["task"].get("pii", "keep") != "mask":
        return ""
    counts: Counter[str] = Counter()
    for split in result.data["splits"].values():
        counts.update(split.get("masked", {}))
    found = ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()))
    return f"- personal data, masked in all splits (task.pii): {found or 'none were found'}\n"


def _left_out(result: Result) -> str:
    """Return the line of a card that says how many rows were left out; empty without `task.without`."""
    counts = {split: found["without"]["rows"] for split, found in result.data["splits"].items() if "without" in found}
    told = ", ".join(f"{count:,} of {split}" for split, count in counts.items())
    return f"- rows left out (task.without): {told}\n" if counts else ""


def save_adapter(model: PeftModel, run: Run, names: Sequence[str] = ()) -> Path:
    """Write `adapter/`, a stock PEFT adapter in safetensors, and return its folder; with `names`, one per task.

    `base_model.json`, which PEFT does not read, records the base model and the task's choices; for a classifier, those
    are the meanings of its outputs.

    Raises:
        UserError: the disk is full; a user's file has this name.
    """
    folder = run.folder / ADAPTER
    if run.accelerator.is_main_process:
        with filling(run.output(ADAPTER, fixed=True)) as temporary:
            write_adapter(model, temporary, names)
    run.accelerator.wait_for_everyone()
    return folder


def save_soup(model: PeftModel, run: Run, adapters: Sequence[str]) -> Path:
    """Write the mean of adapters as `adapter/`, as `save_adapter` does, with a card that names them."""
    folder = save_adapter(model, run)
    if run.accelerator.is_main_process:
        names = "\n".join(f"- `{path}`" for path in adapters)
        text = f"# The mean of {len(adapters)} adapters\n\nTheir values, averaged (Wortsman et al. 2022):\n\n{names}\n"
        write_atomically(folder / "README.md", text)
    return folder


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, run: Run) -> Path:
    """Write `model/`, with all weights and the tokenizer for `from_pretrained`, and return its folder.

    Raises:
        UserError: the disk is full; a user's file has this name.
    """
    folder = run.folder / MODEL
    main = run.accelerator.is_main_process
    weights = weights_together(model, keep=main)
    if main:
        with filling(run.output(MODEL, fixed=True)) as temporary:
            model.save_pretrained(temporary, state_dict=weights)
            tokenizer.save_pretrained(temporary)
    run.accelerator.wait_for_everyone()
    return folder
