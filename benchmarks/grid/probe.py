"""Measure more than the test score of a finished run of the benchmark, and write a record.

    python -m benchmarks.grid.probe --probe.run runs/benchmarks/sentiment/lora/seed0 --probe.record FILE.json

sampling: several predictions per row at a temperature, for tasks without choices.
forgetting: the change of the loss on general text (newspaper sentences) and of the score on the other embedded tasks,
with the adapter attached and detached.
latency: the time of single requests.
transfer: the score on other rows of the task than those of training, for example of another domain.
`benchmarks.grid.measurements` has the definitions. A record that exists gets the measurements that it lacks.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.grid.measurements import Score, latency, sampled, score_on, text_loss, transferred
from benchmarks.grid.plan import PROBES, ROOT
from benchmarks.grid.records import unmeasured
from softprompts.adapters.loading import load_adapter, virtual_tokens
from softprompts.adapters.switch import without_adapter
from softprompts.config.cli import cli
from softprompts.config.methods import HardPromptConfig
from softprompts.config.paths import MODEL
from softprompts.config.sections import EvaluationConfig, ModelConfig, TaskConfig
from softprompts.config.tools import AdapterConfig
from softprompts.encoding.tokenization import encode
from softprompts.engine.build import make_engine
from softprompts.engine.forward import Engine
from softprompts.errors import UserError, nearest
from softprompts.evaluation.hard_prompts import written_tasks
from softprompts.metrics.scoring import load_metrics
from softprompts.models.loading import input_spec, load_base_model
from softprompts.runs.environment import environment
from softprompts.runs.folders import CONFIG_FILE, RESULT_FILE
from softprompts.runs.record import load_result
from softprompts.system.files import write_atomically
from softprompts.tasks.task import Task, load_task

import yaml
from accelerate import Accelerator

GENERAL = TaskConfig("{text}", " {label}", dataset="embedded:sentiment", where={"domain": ["editorials"]})
NOTHING: dict[str, Any] = {"what": [], "seconds": 0.0}
TASKS = ("sentiment", "home_commands", "docstrings")


@dataclass
class ProbeConfig:
    """The run, the measurements, and the record.

    Args:
        run: folder of a finished run.
        record: file to write, or to add to.
        what: sampling, forgetting, latency, transfer.
        transfer: rows of the measurement transfer, each as `task.where`.
        rows: number of rows per task, and of general texts, of the measurement forgetting.
        sampled_rows: number of rows of the measurement sampling.
        requests: number of requests that are timed.
        transfer_rows: number of test rows per item of `transfer`.
    """

    run: str
    record: str
    what: list[str] = field(default_factory=lambda: list(PROBES))
    rows: int = 48
    sampled_rows: int = 60
    requests: int = 10
    transfer: list[dict[str, list[Any]]] = field(default_factory=list)
    transfer_rows: int = 150


def main(probe: ProbeConfig) -> None:
    """Load the output of the run, measure, and write the record."""
    started = time.perf_counter()
    folder = Path(probe.run)
    check(probe)
    record = Path(probe.record)
    known = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else NOTHING
    what = unmeasured(record, probe.what) if record.is_file() else probe.what
    settings = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    config = ModelConfig(**settings["model"])
    evaluation = EvaluationConfig(**settings["evaluation"])
    device = Accelerator().device
    task = task_of(settings, folder)
    base, tokenizer = load_base_model(config, device, task.choices)
    trained = settings["recipe"] != "hard_prompt"
    whole = (folder / MODEL).is_dir()
    others = [other_task(name, probe.rows) for name in TASKS if name != task.name]

    def unlearnt(engine: Engine) -> dict[str, Score]:
        """Return the loss on general text and the score on each other task."""
        found = {"general": text_loss(engine, general_texts(probe.rows))}
        for other in others:
            data = encode(other, tokenizer, input_spec(base, virtual_tokens(engine.model)))
            found[other.name] = score_on(engine, data.test, evaluation)
        return found

    found: dict[str, Any] = {"what": [*known["what"], *what]}
    forgets = "forgetting" in what and trained
    data = encode(task, tokenizer, input_spec(base))
    # Before an adapter is attached: the measurements after it is detached must be equal to these, to the last bit.
    before = unlearnt(make_engine(base, tokenizer, config=config, data=data, say=print)) if forgets else {}
    if whole:
        tuned: Any = load_base_model(replace(config, name_or_path=str(folder / MODEL)), device, task.choices)[0]
    else:
        tuned = load_adapter(base, AdapterConfig(str(folder), any_base=True)) if trained else base
    engine = make_engine(tuned, tokenizer, config=config, data=data, say=print)
    if forgets:
        attached, detached = unlearnt(engine), None
        if not whole:
            with without_adapter(tuned):
                detached = unlearnt(engine)
        found["forgetting"] = forgetting(before, attached, detached, probe.rows)
    metrics = load_metrics(task.metrics, task.schema, task.metric_data)
    if "sampling" in what and task.choices is None:
        rows = data.test[: probe.sampled_rows]
        found["sampling"] = sampled(engine, rows, metrics, evaluation, seed=settings["run"]["seed"])
    if "latency" in what:
        times = latency(engine, data.test[: probe.requests])
        found["latency"] = times | {"virtual_tokens": float(virtual_tokens(tuned))}
    if "transfer" in what:
        spec = input_spec(base, virtual_tokens(tuned))
        tests = [encode(task_of(settings, folder, where), tokenizer, spec).test for where in probe.transfer]
        found["transfer"] = [
            {"where": where} | transferred(engine, rows[: probe.transfer_rows], metrics, evaluation)
            for where, rows in zip(probe.transfer, tests, strict=True)
        ]
    found["seconds"] = known["seconds"] + time.perf_counter() - started
    keep(record, known, found)


def keep(record: Path, known: dict[str, Any], found: dict[str, Any]) -> None:
    """Write what is known and what was found. The environment is that of the latency, which depends on the machine."""
    if "latency" in found or "environment" not in known:
        found = found | {"environment": environment()}
    record.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(record, json.dumps(known | found, indent=1, ensure_ascii=False) + "\n")


def check(probe: ProbeConfig) -> None:
    """Raise `UserError` for a folder without a finished run, or a measurement that does not exist."""
    if not (Path(probe.run) / RESULT_FILE).is_file():
        raise UserError(f"probe.run: {probe.run} is not the folder of a finished run")
    for name in probe.what:
        if name not in PROBES:
            raise UserError(f'probe.what: "{name}"{nearest(name, PROBES)}')


def task_of(settings: dict[str, Any], folder: Path, where: dict[str, list[Any]] | None = None) -> Task:
    """Return the task of a run; that of a hard prompt has the wording and the examples of its test.

    `where` selects other test rows, like `task.where`; the training rows stay the same.
    """
    config = TaskConfig(**settings["task"])
    task = load_task(config)
    if where is not None:
        others = load_task(replace(config, where=where))
        task = replace(task, splits=task.splits | {"test": others.splits["test"]})
    if settings["recipe"] != "hard_prompt":
        return task
    chosen = load_result(folder / RESULT_FILE).notes["chosen"]
    return written_tasks(task, HardPromptConfig(**settings["hard"]), settings["run"]["seed"])[chosen]


def other_task(name: str, rows: int) -> Task:
    """Return an embedded task with its shipped config. Every split has the first test rows, so that little is encoded.

    A base model with too few positions reads the end of a long prompt.
    """
    path = ROOT / "configs" / name / "prompt_tuning.yaml"
    config = TaskConfig(**yaml.safe_load(path.read_text(encoding="utf-8"))["task"])
    task = load_task(replace(config, long_rows="cut_prompt"))
    return replace(task, splits=dict.fromkeys(task.splits, task.splits["test"][:rows]))


def general_texts(rows: int) -> list[str]:
    """Return sentences of newspaper editorials, on which no method is trained."""
    return [row.record["text"] for row in load_task(GENERAL).splits["test"][:rows]]


def forgetting(
    before: dict[str, Score], attached: dict[str, Score], detached: dict[str, Score] | None, rows: int
) -> dict[str, Any]:
    """Return the numbers of `unlearnt` side by side, and `by_row` of the attached method.

    `detached` is None for full fine-tuning.
    """

    def three(name: str) -> dict[str, Any]:
        values = {"base": before[name].value, "attached": attached[name].value}
        off = None if detached is None else detached[name].value
        by_row = {"sums": [round(x, 6) for x in attached[name].sums], "counts": attached[name].counts}
        return values | {"detached": off, "rows": rows, "by_row": by_row}

    tasks = {name: {"metric": before[name].metric} | three(name) for name in before if name != "general"}
    return {"general": {"text": "newspaper editorials"} | three("general"), "tasks": tasks}


if __name__ == "__main__":
    cli(main)
