"""Costs and returns of methods on one task: recorded scores and seconds, and the user's prices."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev

from softprompts.config.sections import ModelConfig
from softprompts.errors import UserError, check_above_zero, listed, nearest
from softprompts.metrics.scoring import shares_of_right_answers
from softprompts.runs.record import Result, load_result

RECORDS = Path("results/benchmarks")
HOUR = 3600.0
# The inputs that the sensitivity halves and doubles.
INPUTS = (
    "requests_a_month", "cost_a_minute", "machine_an_hour", "tuning_runs", "minutes_saved", "cost_of_error",
    "tunings_a_month", "hours_of_work",
)  # fmt: skip


@dataclass
class CaseConfig:
    """One task of a business, in the user's numbers. Money is in any currency.

    Args:
        task: embedded task whose records represent your task.
        methods: methods to compare; the first one is your present method.
        metric: recorded score that is the share of right answers; by default the first one, if its metric states this.
        requests_a_month: number of required answers per month.
        minutes_saved: minutes of a person that a right answer saves.
        cost_a_minute: cost of a person's minute.
        cost_of_error: cost of a wrong answer.
        machine_an_hour: price per hour of the machine that trains and serves.
        tuning_runs: training runs until settings are chosen, for a method that trains.
        tunings_a_month: number of times per month that a task is tuned again.
        hours_of_work: a person's hours to prepare and check each tuning.
        answer_tokens: tokens of one answer; by default the mean of the task's targets, and 1 for choices, which one
            pass scores.
    """

    task: str = "sentiment"
    methods: list[str] = field(default_factory=lambda: ["few_shot", "prompt_tuning", "prefix_tuning", "lora"])
    metric: str | None = None
    requests_a_month: float = 100_000
    minutes_saved: float = 0.5
    cost_a_minute: float = 0.8
    cost_of_error: float = 0.5
    machine_an_hour: float = 0.2
    tuning_runs: float = 9
    tunings_a_month: float = 1
    hours_of_work: float = 8
    answer_tokens: float | None = None

    def __post_init__(self) -> None:
        if self.answer_tokens is not None and self.answer_tokens < 1:
            raise UserError(f"case.answer_tokens: expected 1 or more, found {self.answer_tokens}")
        check_above_zero("case.tuning_runs", self.tuning_runs)
        for name in INPUTS:
            if getattr(self, name) < 0:
                raise UserError(f"case.{name}: expected 0 or more, found {getattr(self, name)}")
        if len(self.methods) < 2:
            raise UserError("case.methods: name at least two methods; the first one is your present method")


@dataclass(frozen=True)
class Method:
    """The benchmark's numbers of a method.

    name: name of the method; score: share of right answers, mean over seeds; deviation: its standard deviation over
    seeds, None for a single seed; training: seconds of a run; answer: seconds of one request alone, with an answer of
    answer_tokens; prompt_tokens: prompt tokens per request, without virtual tokens.
    """

    name: str
    score: float
    deviation: float | None
    training: float
    answer: float
    prompt_tokens: float
    answer_tokens: float


@dataclass(frozen=True)
class Month:
    """A month's money: tuning, serving, errors (costs), saved (return)."""

    tuning: float
    serving: float
    errors: float
    saved: float

    @property
    def margin(self) -> float:
        """Return less the costs that grow with the number of requests."""
        return self.saved - self.serving - self.errors

    @property
    def net(self) -> float:
        """Return less costs."""
        return self.margin - self.tuning


def recorded(
    task: str, name: str, metric: str | None = None, records: Path = RECORDS, answer_tokens: float | None = None
) -> Method:
    """Return the recorded numbers of a method on a task.

    Args:
        task: as in `CaseConfig`.
        name: the method.
        metric: as in `CaseConfig`.
        records: folder with the records of all tasks.
        answer_tokens: as in `CaseConfig`.

    Raises:
        UserError: the method has no record, no latency, or no such score; the first score is not a share of right
            answers.
    """
    _check_recorded(task, name, records)
    results = [load_result(file) for file in _runs(records / task / name)]
    latencies = _latencies(records / task / name)  # perhaps of some runs only
    key = _share_of_right_answers(task, metric, results[0])
    scores = [result.metrics[key].value for result in results]
    tokens = answer_tokens or _target_tokens(results[0], records / task / "rows.json")
    return Method(
        name,
        mean(scores),
        stdev(scores) if len(scores) > 1 else None,
        mean(result.cost["seconds_training"] for result in results),
        mean(_seconds(one, tokens) for one in latencies),
        mean(one["prompt_tokens"] for one in latencies),
        tokens,
    )


def _check_recorded(task: str, name: str, records: Path) -> None:
    tasks = [p.name for p in records.iterdir() if (p / "grid.json").is_file()] if records.is_dir() else []
    if task not in tasks:
        raise UserError(f'case.task: no benchmark of "{task}" is recorded{nearest(task, tasks)}')
    methods = [p.name for p in (records / task).iterdir() if _runs(p)]
    if name not in methods:
        raise UserError(f'case.methods: "{name}" is not recorded on {task}{nearest(name, methods)}')
    if _latencies(records / task / name):
        return
    advice = f"add latency to the probes of its config in configs/benchmarks and run make bench GRID={task}"
    if timed := sorted(method for method in methods if _latencies(records / task / method)):
        raise UserError(
            f"case.methods: the record of {name} on {task} has no latency; {advice}, or name one of: {listed(timed)}"
        )
    timed = sorted(t for t in tasks if any(_latencies(p) for p in (records / t).iterdir()))
    raise UserError(f"case.task: the records of {task} have no latency; {advice}, or name one of: {listed(timed)}")


def _runs(folder: Path) -> list[Path]:
    """Return the records of a method's runs, in order."""
    return sorted(file for file in folder.glob("seed*.json") if file.stem.removeprefix("seed").isdigit())


def _latencies(folder: Path) -> list[dict[str, float]]:
    """Return the recorded latencies of a method's runs."""
    probes = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("seed*.probes.json"))]
    return [probe["latency"] for probe in probes if "latency" in probe]


def _target_tokens(result: Result, rows: Path) -> float:
    """Return the mean number of tokens that an answer of a task has, with the one that ends it; 1 for choices."""
    if result.settings["task"]["choices"] is not None:
        return 1.0
    from softprompts.models.paths import model_path  # not above: a task with choices needs no tokenizer
    from softprompts.models.reading import read_tokenizer

    model = ModelConfig(**result.settings["model"])
    tokenizer = read_tokenizer(model_path(model), model.revision)
    targets = [row["target"] for row in json.loads(rows.read_text(encoding="utf-8"))]
    return 1 + mean(map(len, tokenizer(targets, add_special_tokens=False).input_ids))


def _seconds(latency: dict[str, float], tokens: float) -> float:
    """Return the seconds of a request: those of its first token, and for each further token the same again."""
    further = (latency["answer_ms"] - latency["first_token_ms"]) / (latency["new_tokens"] - 1)
    return (latency["first_token_ms"] + (tokens - 1) * further) / 1000


def _share_of_right_answers(task: str, metric: str | None, result: Result) -> str:
    names = list(result.metrics)
    if metric is None and names[0] not in shares_of_right_answers(result.settings["task"]["metrics"]):
        raise UserError(
            f"case.metric: the first score of {task} is {names[0]}, which is not a share of right answers; "
            f"name the score that is one for you, of {listed(names)}"
        )
    if metric is not None and metric not in names:
        raise UserError(f'case.metric: {task} has no score "{metric}"{nearest(metric, names)}')
    return metric or names[0]


def month(case: CaseConfig, method: Method, score: float | None = None) -> Month:
    """Return the money of a month; `score` instead of the recorded mean."""
    right = method.score if score is None else score
    machine = case.machine_an_hour / HOUR
    tuning = 0.0
    if method.training:
        work = case.hours_of_work * 60 * case.cost_a_minute
        tuning = case.tunings_a_month * (case.tuning_runs * method.training * machine + work)
    return Month(
        tuning,
        case.requests_a_month * method.answer * machine,
        case.requests_a_month * (1 - right) * case.cost_of_error,
        case.requests_a_month * right * case.minutes_saved * case.cost_a_minute,
    )


def advantage(case: CaseConfig, method: Method, today: Method | None) -> float:
    """Return how much more a method returns per month than today's; its net return if there is none."""
    return month(case, method).net - (month(case, today).net if today else 0.0)


def break_even(case: CaseConfig, method: Method, today: Method | None) -> tuple[float, float] | None:
    """Return the fewest and the most requests per month at which a method returns more than today's; None for none.

    The return is a linear function of the number of requests: the return of all requests, less the cost of tuning. If
    today's method is None, no model answers: people do the work as before, and the return is 0.
    """
    none, one = replace(case, requests_a_month=0), replace(case, requests_a_month=1)
    fixed = -advantage(none, method, today)
    gain = month(one, method).margin - (month(one, today).margin if today else 0.0)
    if gain > 0:
        return max(0.0, fixed / gain), math.inf
    if fixed >= 0:
        return None
    return 0.0, fixed / gain if gain else math.inf


def sensitivity(case: CaseConfig, method: Method, today: Method | None) -> list[tuple[str, float, float]]:
    """Return for each input the advantage over today's method per month, with half and with twice of the input."""
    found = []
    for name in INPUTS:
        changed = [replace(case, **{name: factor * getattr(case, name)}) for factor in (0.5, 2.0)]
        low, high = (advantage(one, method, today) for one in changed)
        found.append((name, low, high))
    return sorted(found, key=lambda row: -abs(row[2] - row[1]))


def best_of(case: CaseConfig, methods: Sequence[Method]) -> Method:
    """Return the method with the largest net return."""
    return max(methods, key=lambda method: month(case, method).net)
