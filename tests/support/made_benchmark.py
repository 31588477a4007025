"""An invented benchmark for tests of code that reads or shows records: written as files, read by `load_benchmark`."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks.grid.settings import Benchmark, load_benchmark
from benchmarks.report.frame import Records, make_records
from made_result import make_result
from softprompts.metrics.scoring import Interval
from softprompts.metrics.significance import Comparison

LABELS = {
    "zero_shot": "hard prompt, zero-shot",
    "few_shot": "hard prompt, 8-shot",
    "prompt_tuning": None,
    "prefix_tuning": None,
    "p_tuning": "P-tuning",
    "lora": "LoRA",
    "full_finetuning": "full fine-tuning",
}
METRICS = {
    "sentiment": ["accuracy", "macro_f1"],
    "home_commands": ["exact_match", "slot_f1", "valid_json", "valid_schema"],
    "docstrings": ["rouge_l", "chrf", "style_rate"],
}
# For each method: score, trained parameters, saved bytes, seconds, memory, change of general loss, prompt tokens.
METHODS: dict[str, tuple[float, int, int, float, float, float, int]] = {
    "zero_shot": (0.30, 0, 0, 0, 1.0, 0, 60),
    "few_shot": (0.50, 0, 0, 0, 1.0, 0, 512),
    "prompt_tuning": (0.70, 11_520, 46_200, 420, 2.0, 0.20, 40),
    "prefix_tuning": (0.72, 230_400, 921_600, 240, 1.9, 0.30, 40),
    "p_tuning": (0.68, 1_008_576, 46_200, 225, 2.1, 0.25, 40),
    "lora": (0.80, 2_442_240, 9_823_216, 275, 2.6, 0.80, 40),
    "full_finetuning": (0.82, 134_515_008, 538_060_032, 395, 3.6, 1.10, 40),
}
ENVIRONMENT = {
    "commit": "0123abc",
    "dtype": "float32",
    "hardware": {"processor": "made up", "cores": 2, "threads": 2, "gpus": []},
}
ROWS = 4
OTHERS = {"sentiment": [{"domain": ["tweets"]}], "home_commands": [{"language": ["de"]}]}


def make_benchmark(folder: Path, task: str = "sentiment", seeds: int = 3, **changes: Any) -> Benchmark:
    """Write a benchmark with all its records as FOLDER/TASK, and read it.

    `answers` and `prompt` replace those of all runs and rows; `without` names runs ("lora/seed1") that have no record;
    `failed` maps such names to the reason of their failure; `probes` says whether any were made; `transfer` is the
    grid's, and each of its kinds of rows costs ten points more.
    """
    home = folder / task
    transfer = changes.get("transfer", OTHERS.get(task, []))
    _write(home / "grid.json", _grid(task, seeds) | {"transfer": transfer})
    prompt = changes.get("prompt", "It is a joy.\nSentiment:")
    _write(home / "rows.json", [{"place": f"row {n}", "prompt": prompt, "target": " positive"} for n in range(ROWS)])
    for method in METHODS:
        if METHODS[method][1]:
            _write(home / method / "sweep.json", _sweep())
        for seed in range(seeds):
            name = f"{method}/seed{seed}"
            if reason := changes.get("failed", {}).get(name):
                _write(home / f"{name}.failed.json", {"reason": reason})
            elif name not in changes.get("without", ()):
                _write(home / f"{name}.json", asdict(_result(task, method, seed)))
                _write(home / f"{name}.answers.json", changes.get("answers", [" positive"] * ROWS))
                if changes.get("probes", True):
                    _write(home / f"{name}.probes.json", _probes(task, method, seed, transfer))
    return load_benchmark(home)


def make_comparisons(task: str, adjusted: float = 0.001, **differences: float) -> list[Comparison]:
    """Return a comparison of every pair by every metric, from the scores above, or with METHOD's `differences`."""
    names = list(METHODS)
    made = []
    for metric in METRICS[task]:
        for i, first in enumerate(names):
            for second in names[i + 1 :]:
                d = differences.get(first, METHODS[first][0]) - differences.get(second, METHODS[second][0])
                interval = (d, d - 0.05, d + 0.05)
                made.append(Comparison(first, second, metric, *interval, adjusted / 10, adjusted, ROWS, (3, 3)))
    return made


def make_probed(task: str, transfer: list[dict[str, list[str]]], adjusted: float = 0.001) -> list[Comparison]:
    """Return a comparison of every pair by every number of the probes above, which have no numbers of rows."""
    attached = {f"attached.{name}": (5, -1.0) for name in ("general", *METRICS) if name != task}
    drawn = {f"drawn.5x0.7.{name}": (0, 1.0) for name in ("agreement", "exact_match") if task != "sentiment"}
    kinds = [value for where in transfer for values in where.values() for value in values]
    others = {f"transfer.{kind}.{metric}": (0, 1.0) for kind in kinds for metric in METRICS[task]}
    made = []
    for name, (place, sign) in {**attached, **drawn, **others}.items():
        for first, second in combinations([m for m in METHODS if METHODS[m][1] or place == 0], 2):
            part = 1 / 3 if name == "attached.sentiment" else 1.0  # an accuracy
            d = part * sign * (METHODS[first][place] - METHODS[second][place])
            made.append(Comparison(first, second, name, d, d - 0.05, d + 0.05, adjusted / 10, adjusted, ROWS, (3, 3)))
    return made


def records_of(*benchmarks: Benchmark, adjusted: float = 0.001, **differences: float) -> Records:
    """Return the records of benchmarks, with the comparisons of `make_comparisons` and `make_probed`."""
    compared = {b.name: make_comparisons(b.name, adjusted, **differences) for b in benchmarks}
    probed = {b.name: make_probed(b.name, b.grid.get("transfer", []), adjusted) for b in benchmarks}
    return make_records(benchmarks, compared, probed)


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def _grid(task: str, seeds: int) -> dict[str, Any]:
    methods = {
        name: {"recipe": name, "label": label, "settings": {}, "sweep": {}, "mixed_precision": "no"}
        for name, label in LABELS.items()
    }
    return {"task": task, "methods": methods, "seeds": list(range(seeds)), "probes": ["sampling"], "name": None}


def _sweep() -> dict[str, Any]:
    values = [{"training.learning_rate": rate} for rate in (0.01, 0.03, 0.1)]
    points: list[dict[str, Any]] = [
        {"values": values[0], "best_value": -0.5},
        {"values": values[1], "best_value": -0.25},
        {"values": values[2], "best_value": None, "failure": "the loss became nan"},
    ]
    return {"chosen": values[1], "by": "loss", "seed": 100, "points": points}


def _result(task: str, method: str, seed: int) -> Any:
    score, trained, saved, seconds, memory, *_ = METHODS[method]
    value = score + 0.01 * (seed - 1)
    history = [{"step": s, "validation_loss": 3.0 - score * s / 40 + 0.1 * seed} for s in (0, 20, 40)]
    cost: dict[str, float] = {
        "seconds_total": seconds + 50,
        "seconds_training": float(seconds) + seed if seconds else 0.0,
        "cpu_seconds_training": 2.0 * seconds + seed if seconds else 0.0,
        "seconds_testing": 30.0,
        "peak_memory_gib": memory,
        "adapter_bytes": float(saved),
    }
    if trained:
        cost["training_tokens_per_second"] = 300.0
    majority = {"majority_class": {m: Interval(0.25, 0.2, 0.3, ROWS) for m in METRICS[task]}}
    return make_result(
        recipe=method,
        task=task,
        seed=seed,
        metrics={m: Interval(value, value - 0.03, value + 0.03, ROWS) for m in METRICS[task]},
        baselines=majority if task == "sentiment" else {},
        parameters={"total": 134_526_528, "trainable": trained, "saved": saved // 4},
        cost=cost,
        training={"best_step": 40, "history": history} if trained else {},
        settings=make_result().settings
        | ({"training": {"learning_rate": 0.03}} if trained else {})
        | ({"lora": {"r": 8}} if method == "lora" else {}),
        notes={},
        environment=ENVIRONMENT,
    )


def _probes(task: str, method: str, seed: int, transfer: list[dict[str, list[str]]]) -> dict[str, Any]:
    score, trained, _, _, _, change, tokens = METHODS[method]
    taken_off = None if method == "full_finetuning" else 3.0
    latency = {
        "prompt_tokens": float(tokens),
        "virtual_tokens": 20.0 if "tuning" in method and method != "full_finetuning" else 0.0,
        "rows": 20.0,
        "new_tokens": 32.0,
        "first_token_ms": 10.0 + tokens / 10 + seed,
        "answer_ms": 900.0 + tokens + seed,
    }
    found: dict[str, Any] = {"latency": latency, "environment": ENVIRONMENT}
    if transfer:
        found["transfer"] = [
            {"where": where, "rows": ROWS, "metrics": dict.fromkeys(METRICS[task], score + 0.01 * (seed - 1) - 0.1 * n)}
            for n, where in enumerate(transfer, start=1)
        ]
    if task != "sentiment":
        drawn = {"exact_match": score - 0.1 + 0.01 * seed, "valid_json": score}
        found["sampling"] = {
            "temperature": 0.7,
            "draws": 5,
            "rows": ROWS,
            "metrics": drawn if task == "home_commands" else {},
            "agreement": score - 0.2 + 0.01 * seed,
        }
    if trained:
        attached = {"base": 3.0, "attached": 3.0 + change + 0.01 * seed, "detached": taken_off, "rows": ROWS}
        others = {t: attached | {"metric": "loss"} for t in METRICS if t not in (task, "sentiment")}
        if task != "sentiment":
            accuracy = {"base": 0.75, "attached": 0.75 - change / 3 - 0.01 * seed}
            off = None if taken_off is None else 0.75
            others["sentiment"] = accuracy | {"metric": "accuracy", "detached": off, "rows": ROWS}
        found["forgetting"] = {"general": attached | {"text": "newspaper editorials"}, "tasks": others}
    return found


def numbers(found: Benchmark) -> dict[str, Any]:
    """Return the results that must not depend on how and when the jobs of a grid ran."""
    return {
        "answers": {m: {s: c.answers for s, c in cells.items()} for m, cells in found.cells.items()},
        "losses": {m: {s: c.result.test_loss for s, c in cells.items()} for m, cells in found.cells.items()},
        "chosen": {m: s["chosen"] for m, s in found.sweeps.items()},
        "rows": found.rows,
    }
