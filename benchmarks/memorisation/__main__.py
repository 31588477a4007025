"""Train methods on a copy of train with secrets in it, and measure how far each model gives the secrets away.

    python -m benchmarks.memorisation --config configs/memorisation/docstrings.yaml

The secrets are canaries: random numbers in a fixed sentence, inserted 0, 1, 4 or 16 times (Carlini et al. 2019, "The
Secret Sharer"). The shipped recipes train with the learning rates of their configs, and all for as many steps. The base
model is scored as well. Each result goes to the record at once; an interrupted call continues where it stopped.

Ends with exit code 2 and one line for an error that you can fix, 1 if a run failed, 0 if the record is complete.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.jobs import Process, launched
from benchmarks.memorisation.canaries import write_copy
from benchmarks.memorisation.settings import JOB, SCORES, MemorisationConfig
from benchmarks.memorisation.tables import BASE, in_words
from softprompts.config.cli import cli, parse_sections
from softprompts.config.sections import ModelConfig, TaskConfig
from softprompts.data.sources import SPLITS
from softprompts.errors import UserError
from softprompts.runs.environment import environment
from softprompts.runs.folders import CONFIG_FILE, RESULT_FILE
from softprompts.system import locks
from softprompts.system.files import write_atomically

import yaml

SCORING = "-mbenchmarks.memorisation.scoring"  # one word, as the path of a recipe is
COPIED = "settings.json"  # beside a copy of train
# Settings of the task that choose, rename or mask rows. The copy has the rows as these leave them. A second time, they
# would leave out canaries, ask for columns of other names, or mask the secrets.
DONE: dict[str, Any] = {
    "task.dataset": None,
    "task.subset": None,
    "task.revision": None,
    "task.other_datasets": {},
    "task.streaming": False,
    "task.rename": {},
    "task.where": {},
    "task.max_rows": {},
    "task.without": None,
    "task.pii": "keep",
}
# Settings that may change between two calls for one record.
FREE = ("methods", "seeds", "runs", "record")


def main(memorisation: MemorisationConfig) -> None:
    """Make every result that the record lacks."""
    runs = Path(memorisation.runs)
    runs.mkdir(parents=True, exist_ok=True)
    locks.own(runs, "memorisation.runs")
    file = Path(memorisation.record)
    record = opened(memorisation, file)
    for seed in memorisation.seeds:
        for method in (BASE, *memorisation.methods):
            if any((run["method"], run["seed"]) == (method, seed) for run in record["runs"]):
                continue
            run = one(memorisation, method, seed)
            record["runs"].append(run)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps(record, indent=1) + "\n")
            print(f"{method}, seed {seed}: {in_words(run)}", flush=True)


def opened(config: MemorisationConfig, file: Path) -> dict[str, Any]:
    """Return the record, or a new one.

    Raises:
        UserError: it has other settings.
    """
    settings = {key: value for key, value in asdict(config).items() if key not in FREE}
    if not file.is_file():
        return {"settings": settings, "runs": []}
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"memorisation.record: {file} is damaged: it is not JSON") from None
    for key, value in settings.items():
        if record["settings"].get(key) != value:
            raise UserError(
                f"memorisation.record: {file} has {key} {record['settings'].get(key)} instead of {value}; name a new "
                "file, or move that one away"
            )
    return record


def one(config: MemorisationConfig, method: str, seed: int) -> dict[str, Any]:
    """Train a method, unless its run is finished, and score it.

    Raises:
        SystemExit: the run failed, or was stopped.
    """
    folder = Path(config.runs) / config.task / f"seed{seed}"
    data, run = folder / "data", folder / method
    source = f"configs/{config.task}/{config.methods[0] if method == BASE else method}.yaml"
    settings = yaml.safe_load(Path(source).read_text(encoding="utf-8"))
    files = {f"task.{split}": str(data / f"{split}.jsonl") for split in SPLITS}
    flags = config.settings | DONE | files
    if not all(Path(name).is_file() for name in files.values()):
        write_copy(config, sections(settings, config.settings)["task"], seed, data)
        write_atomically(data / COPIED, json.dumps(_copied(config), indent=1) + "\n")
    elif json.loads((data / COPIED).read_text(encoding="utf-8")) != _copied(config):
        raise UserError(f"memorisation.runs: {data} was made with other settings; name a new folder")
    if method == BASE:
        found = {name: asdict(value) for name, value in sections(settings, flags).items()}
        return {"method": BASE, "seed": seed, "canaries": scored(config, seed, found, run, trained=False)}
    train(source, run, config, seed, flags)
    kept = json.loads((run / CONFIG_FILE).read_text(encoding="utf-8"))
    result = json.loads((run / RESULT_FILE).read_text(encoding="utf-8"))
    return {
        "method": method,
        "seed": seed,
        "learning_rate": kept["training"]["learning_rate"],
        "rows": result["data"]["splits"]["train"]["rows"],
        "batch_size": kept["training"]["batch_size"],
        "best_step": result["training"]["best_step"],
        "seconds": result["cost"]["cpu_seconds_training"],
        "trainable": result["parameters"]["trainable"],
        "dtype": result["environment"]["dtype"],
        "test_loss": result["test_loss"],
        "metrics": {name: value["value"] for name, value in result["metrics"].items()},
        "environment": environment(),
        "canaries": scored(config, seed, kept, run),
    }


def _copied(config: MemorisationConfig) -> dict[str, Any]:
    """Return the settings that a copy of train depends on, as JSON values."""
    settings = {key: value for key, value in asdict(config).items() if key not in (*FREE, "steps", "candidates")}
    made: dict[str, Any] = json.loads(json.dumps(settings))
    return made


def shared(model: ModelConfig, task: TaskConfig) -> None:
    """Name the sections that are read; the signature is their schema."""


def sections(settings: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """Return `model` and `task` of a config, with changes by dotted key."""
    tree = {name: dict(settings.get(name, {})) for name in ("model", "task")}
    for key, value in flags.items():
        section, _, name = key.partition(".")
        if section in tree:
            tree[section][name] = value
    return parse_sections(shared, yaml.safe_dump(tree, allow_unicode=True))


def train(source: str, run: Path, config: MemorisationConfig, seed: int, flags: dict[str, Any]) -> None:
    """Run a shipped recipe on the copy, or continue its run. Only the last step is validated, so it is what is kept."""
    steps = {"training.steps": config.steps, "training.eval_every": config.steps, "run.seed": seed}
    words = [f"recipes/{Path(source).stem}.py", "--config", source, "--resume"]
    for key, value in {**flags, **steps, "run.output_dir": str(run)}.items():
        words += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
    launch(words, run)  # a finished run stays as it is, and is refused if it had other settings


def scored(
    config: MemorisationConfig, seed: int, settings: dict[str, Any], run: Path, trained: bool = True
) -> list[dict[str, Any]]:
    """Score a finished run, or the base model, in a process of its own."""
    folder = run.with_name(f"{run.name}_scores")
    folder.mkdir(parents=True, exist_ok=True)
    known = {name: settings[name] for name in ("model", "task")}
    job = {"config": asdict(config), "seed": seed, "settings": known, "run": str(run) if trained else None}
    (folder / JOB).write_text(json.dumps(job), encoding="utf-8")
    launch([SCORING, str(folder)], folder)
    found: list[dict[str, Any]] = json.loads((folder / SCORES).read_text(encoding="utf-8"))
    return found


def launch(words: list[str], folder: Path) -> None:
    """Run a script to its end.

    Raises:
        SystemExit: the script failed, or was stopped.
    """
    code, line = launched(Process(words, folder))
    if code:
        print(f"{folder}: {line}", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    cli(main)
