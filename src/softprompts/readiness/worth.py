"""Is training worth it: test rows that the target needs, possible gain over the hard prompt, and cost of a run."""

from __future__ import annotations

import json
import math
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from softprompts.config.methods import CPTConfig, HardPromptConfig
from softprompts.config.sections import RunConfig, TaskConfig
from softprompts.data.sources import EMBEDDED_PREFIX
from softprompts.errors import UserError, listed, nearest, settings_named, short
from softprompts.evaluation.hard_prompts import draw_shots, written_tasks
from softprompts.methods.catalog import METHODS
from softprompts.metrics import planning
from softprompts.metrics.scoring import (
    Metric,
    compute_metrics,
    is_mean_over_rows,
    load_metrics,
    number_named,
    reported,
)
from softprompts.models.loading import default_device, dtype_of
from softprompts.readiness.findings import Finding, percent, share
from softprompts.readiness.overlap import input_of
from softprompts.readiness.plan import Plan
from softprompts.readiness.rows import Measured
from softprompts.readiness.settings import RecipeSettings
from softprompts.runs.folders import CONFIG_FILE, RESULT_FILE, plain
from softprompts.runs.record import Result, load_result, spoken
from softprompts.system.files import IS_CLONE, PROJECT
from softprompts.tasks.rows import digest_of
from softprompts.tasks.task import Task, load_task, with_prompt

import torch

POWER, LEVEL = 0.8, 0.05
CHECKED, ROUNDING = 200, 1e-6  # test rows that show the scale of a number, and what it may exceed 1 by
RIGHT_OR_WRONG = ("accuracy", "exact_match")  # with choices, both are the share of right labels
ENOUGH = 0.5  # share of the needed rows below which a test proves nothing
HARD, HARD_PROMPT = "hard_prompt", "the hard prompt"
NO_BASELINE_FOR_ENCODERS = "An encoder has no hard prompt: its classifier has to be trained."
# Settings that determine the rows of a task and their answers; a baseline with another value is for another task.
SAME = tuple(
    name
    for name in (field.name for field in fields(TaskConfig))
    if name not in ("prompt", "metrics", "chat", "system", "max_length", "long_rows", "name", "max_rows", "streaming")
)
# Floating-point operations per parameter and token (Kaplan et al. 2020, table 1): 2 for the forward pass, 2 for the
# gradients of activations, which soft prompts and LoRA need, and 2 for the gradients of weights.
FORWARD, SOFT, WHOLE = 2, 4, 6
# Speed of a training step, and of decoding, which reads all weights for each token, relative to that of a plain product
# of matrices. Both come from the records of prompt tuning in results/tasks.
STEP_EFFICIENCY, DECODING_EFFICIENCY = 0.5, 0.1
SPREAD = 2.0  # the true time is between the estimate divided and multiplied by this


def metric_name(plan: Plan, task: Task, config: str) -> str:
    """Return the name in records of the plan's metric, which is that of a number, as of `number_named`.

    Raises:
        UserError: the task has neither a metric nor a number with the plan's name; a right prediction scores above 1,
            or less than an empty one.
    """
    metrics = load_metrics(task.metrics, task.schema, task.metric_data)
    targets = [row.target.strip() for row in task.splits["test"][:CHECKED]]
    if name := number_named(plan.metric, metrics, targets):
        _check_scale(plan, name, metrics, targets)
        return name
    valid = {*metrics, *reported(metrics, targets)}
    raise UserError(
        f'{plan.path}: kpi.metric: the task has no metric "{plan.metric}"{nearest(plan.metric, valid)}; '
        f"name one of them, or add it to task.metrics in {config}"
    )


def _check_scale(plan: Plan, name: str, metrics: dict[str, Metric], targets: list[str]) -> None:
    """Raise `UserError` for a number that is not from 0 to 1, or of which less is better, as the plan's target is."""
    own = next(metric for key, metric in metrics.items() if name in reported({key: metric}, targets))
    if getattr(own.module, "reference_free", False):
        return
    right, empty = (_number_for(own, name, answers, targets) for answers in (targets, [""] * len(targets)))
    if right > 1 + ROUNDING or empty > right:
        raise UserError(
            f"{plan.path}: kpi.metric: {name} is {right:.4g} for a right prediction and {empty:.4g} for an empty one; "
            "the target needs a number from 0 to 1, of which more is better"
        )


def _number_for(metric: Metric, name: str, answers: list[str], targets: list[str]) -> float:
    """Return a number of a metric; NaN, which no bound excludes, if the metric does not take these answers."""
    try:
        return float(compute_metrics({name: metric}, answers, targets)[name])
    except Exception:  # a user's module may raise anything
        return math.nan


@dataclass(frozen=True)
class Baseline:
    """The score of a hard prompt on test, its 95 % interval, and where it is recorded."""

    path: str
    value: float
    low: float
    high: float


def baseline_folder(settings: RecipeSettings) -> Path:
    """Return the folder of the hard-prompt run for a config; it is next to the folder of the config's own run."""
    own = Path(settings.run.output_dir)
    return own if settings.method == HARD else own.parent / HARD


def baseline_of(settings: RecipeSettings, task: Task, metric: str, given: str | None) -> Baseline | str:
    """Return the hard-prompt baseline, or the reason why none is found.

    Args:
        settings: settings of the recipe.
        task: the task with its rows.
        metric: metric of the plan.
        given: folder of a run, or its record; by default `baseline_folder`, and the record of an included task.

    Raises:
        UserError: the given record does not exist, is damaged, or belongs to another task, model or recipe.
    """
    if given:
        path = Path(given) / RESULT_FILE if Path(given).is_dir() else Path(given)
        if not path.is_file():
            raise UserError(f"readiness.baseline: no such record: {path}")
        found = _baseline_in(path, settings, task, metric)
        if isinstance(found, str):
            raise UserError(f"readiness.baseline: {found}")
        return found
    name = (settings.task.dataset or "").removeprefix(EMBEDDED_PREFIX)
    candidates = [baseline_folder(settings) / RESULT_FILE]
    if IS_CLONE and name != settings.task.dataset:
        candidates.append(PROJECT / "results" / "tasks" / name / f"{HARD}.json")
    tried = [_baseline_in(path, settings, task, metric) for path in candidates if path.is_file()]
    return next((one for one in tried if isinstance(one, Baseline)), next(iter(tried), "It has no record."))


def _baseline_in(path: Path, settings: RecipeSettings, task: Task, metric: str) -> Baseline | str:
    """Return the baseline in a record; the reason if there is none, or if its values are no scores."""
    found = _read_baseline(path, settings, task, metric)
    if isinstance(found, str):
        return found
    numbers = (found.value, found.low, found.high)
    if all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers) and 0 <= found.value <= 1:
        return found
    said = f"{short(found.value)} ({short(found.low)} to {short(found.high)})"
    return f"{path}: expected a value of {metric} from 0 to 1, and its interval, found {said}."


def _read_baseline(path: Path, settings: RecipeSettings, task: Task, metric: str) -> Baseline | str:
    try:
        result = load_result(path)
        why = _differs(result, settings, task)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return str(error) if isinstance(error, UserError) else f"{path} is damaged, or not the record of a run."
    if why:
        return f"{path} is not a baseline of this task: {why}."
    if metric not in result.metrics:
        return f"{path} has no {metric}; its metrics are {listed(result.metrics)}."
    found = result.metrics[metric]
    return Baseline(str(path), found.value, found.low, found.high)


def _differs(result: Result, settings: RecipeSettings, task: Task) -> str:
    """Return why a record is not from a hard prompt on the test rows of a task; empty if it is."""
    if result.recipe != HARD:
        return f"its recipe is {result.recipe}"
    model = result.settings["model"]["name_or_path"]
    if model != settings.model.name_or_path:
        return f"its base model is {model}"
    if (split := result.settings["evaluation"].get("split", "test")) != "test":
        return f"it was scored on {split}"
    default = {name: _as_recorded(value) for name, value in vars(TaskConfig("", "")).items()}
    before = default | result.settings["task"]
    for name in SAME:
        if before[name] != _as_recorded(getattr(settings.task, name)):
            return f"its task.{name} is another"
    then = result.data["splits"]["test"]
    if then["rows"] != len(task.splits["test"]):
        return f"it has {then['rows']:,} test rows"
    now = _digest_of_test(result, replace(settings.task, max_rows=before["max_rows"]), task)
    return "" if now == then["sha256"] else "its test rows, or its few-shot examples, are others"


def _as_recorded(value: Any) -> Any:
    """Return a setting as a record has it; JSON alone would write a key of `choices` that is true in another way."""
    return json.loads(json.dumps(plain(value)))


def _digest_of_test(result: Result, config: TaskConfig, task: Task) -> str:
    """Return the SHA-256 of the test rows of today, with the prompt template and the examples of a record.

    Args:
        result: the record of a hard prompt.
        config: settings of its rows.
        task: rows that are already read; others are read if these settings differ from theirs.
    """
    hard, chosen = result.settings["hard"], result.notes["wordings"][result.notes["chosen"]]
    rows = task if task.config == config else load_task(config)
    test = replace(rows, splits={"test": rows.splits["test"]})
    shots = draw_shots(rows, hard["shots"], result.seed)
    return digest_of(with_prompt(test, chosen["prompt"], shots, hard["separator"]).splits["test"])


def baseline_arguments(settings: RecipeSettings, plan: Plan, task: Task) -> dict[str, Any]:
    """Return the arguments of recipes/hard_prompt.py that make the baseline of a config.

    Raises:
        UserError: the plan asks for more examples than train has rows, or for a template that is not valid.
    """
    folder = baseline_folder(settings)
    goal = plan.goal.replace("{", "{{").replace("}", "}}")
    asked = f" Answer with one of: {', '.join(c.strip() for c in task.choices)}." if task.choices else ""
    asked = asked.replace("{", "{{").replace("}", "}}")
    prompt, evaluation = settings.task.prompt, replace(settings.evaluation, split="test")  # which a baseline is for
    if task.choices is None and not evaluation.stop and not any("\n" in row.target for row in task.splits["train"]):
        # A trained prompt learns to end its answer, a base model does not.
        evaluation = replace(evaluation, stop=["\n"])
    hard = HardPromptConfig(plan.wordings or [prompt, f"{goal}{asked}\n\n{prompt}"], plan.shots)
    own = {"hard.shots": f"{plan.path}: shots", "hard.wordings": f"{plan.path}: wordings"}
    with settings_named(own):  # the recipe would name settings that the user has not
        written_tasks(task, hard, settings.run.seed)
    return {
        "model": settings.model,
        "task": replace(settings.task, max_length=sys.maxsize),  # the model's own limit is enough for the examples
        "hard": hard,
        "evaluation": evaluation,
        "run": RunConfig(str(folder), settings.run.seed, resume=(folder / CONFIG_FILE).exists(), trackers=[]),
    }


def majority_share(task: Task) -> float | None:
    """Return the test accuracy of always predicting the most frequent label of train; None without labels."""
    if task.choices is None:
        return None
    label = Counter(row.target for row in task.splits["train"]).most_common(1)[0][0]
    return share(sum(row.target == label for row in task.splits["test"]), len(task.splits["test"]))


def rows_needed(reference: float, target: float) -> int:
    """Return the test rows that show a score of `target` to be above `reference`: two-sided 5 %, power 80 %.

    The test is the test of one mean, by normal approximation. A score per row from 0 to 1 with mean p has at most the
    variance p (1 - p), which a score of 0 or 1 has. The number is thus exact for accuracy, and sufficient for other
    means over rows. The value to exceed is a constant. For a measured one, see `metrics.planning.rows_needed`.

    Args:
        reference: value to exceed, from 0 to 1.
        target: a larger value.
    """
    from statsmodels.stats.power import normal_sample_size_one_tail  # not above: it comes with an extra

    deviations = [math.sqrt(p * (1 - p)) for p in (reference, target)]
    rows = normal_sample_size_one_tail(target - reference, POWER, LEVEL / 2, *deviations)
    return max(1, math.ceil(rows))


def power_of(reference: float, target: float, rows: int) -> float:
    """Return the power of the test of `rows_needed` with this number of rows."""
    from statsmodels.stats.power import normal_power_het

    deviations = [max(1e-9, math.sqrt(p * (1 - p))) for p in (reference, target)]
    return float(normal_power_het(target - reference, rows, LEVEL / 2, *deviations, alternative="larger"))


def worth_findings(
    settings: RecipeSettings, plan: Plan, task: Task, metric: str, baseline: Baseline | str, ceiling: float
) -> list[Finding]:
    """Return the findings on the test rows and the baseline.

    Args:
        settings: settings of the recipe.
        plan: the plan, with target and today's value.
        task: the task with its rows.
        metric: metric of the plan.
        baseline: see `baseline_of`.
        ceiling: best share of right answers that is possible with contradicting test rows.
    """
    return [
        _power(plan, task, metric, baseline),
        _to_win(settings, plan, metric, baseline, ceiling if metric in RIGHT_OR_WRONG else 1.0),
    ]


def _power(plan: Plan, task: Task, metric: str, baseline: Baseline | str) -> Finding:
    title, rows = "Test rows", len(task.splits["test"])
    found = _reference(plan, task, metric, baseline)
    if found is None:
        said = f"{rows:,} test rows. The number that the target needs is unknown without a value to compare with."
        remedy = "Give kpi.today in readiness.yaml, or run the hard-prompt baseline."
        return Finding("test_rows", title, "amber", said, remedy, {"rows": rows})
    reference, source = found
    text = input_of(task)
    different = len({text(row.record) for row in task.splits["test"]})  # a repeated row tells nothing new
    facts: dict[str, Any] = {"rows": rows, "different_inputs": different}
    facts |= {"reference": reference, "reference_is": source, "target": plan.target}
    if reference >= plan.target:
        said = f"{source[0].upper()}{source[1:]} reaches a {metric} of {reference:.3f}. The target is {plan.target}."
        return Finding("test_rows", title, "amber", said, "Set kpi.target above it in readiness.yaml.", facts)
    needed = math.ceil(_needed(reference, source, plan.target))
    power = _power_over(reference, source, plan.target, different)
    metrics = load_metrics(task.metrics, task.schema, task.metric_data)
    by_row = is_mean_over_rows(metrics, metric, [row.target for row in task.splits["test"]])
    facts |= {"needed": needed, "power": power, "mean_over_rows": by_row}
    said = (
        f"The target is {plan.target} in {metric}. To show that it is above {reference:.3f} ({source}), a test needs "
        f"{needed:,} rows (power 80 %, level 5 %). The {rows:,} test rows have "
        f"{'' if different == rows else f'{different:,} different inputs, and thus '}a power of {percent(power)}."
    )
    if not by_row:
        said += f" This is a rough number, because {metric} is not a mean over rows."
    if different >= needed:
        rough = "Plan with several times as many rows, or name a metric in kpi.metric that scores each row."
        return Finding("test_rows", title, "green" if by_row else "amber", said, "" if by_row else rough, facts)
    remedy = f"Collect {needed - different:,} more test rows, or agree on a target that fewer rows can show."
    return Finding("test_rows", title, "amber" if different >= ENOUGH * needed else "red", said, remedy, facts)


def _reference(plan: Plan, task: Task, metric: str, baseline: Baseline | str) -> tuple[float, str] | None:
    """Return the value that the target has to exceed, and its source; None if none is known.

    Today's process, the hard prompt and the most frequent label need no training. The target must exceed all of them,
    so the reference is the one that needs the most test rows.
    """
    found = [] if plan.today is None else [(plan.today, "today's process")]
    if isinstance(baseline, Baseline):
        found.append((baseline.value, HARD_PROMPT))
    majority = majority_share(task) if metric in RIGHT_OR_WRONG else None
    if majority is not None:
        found.append((majority, "always predicting the most frequent label"))
    return max(found, key=lambda one: (_needed(one[0], one[1], plan.target), one[0]), default=None)


def _needed(reference: float, source: str, target: float) -> float:
    """Return the test rows that show the target to be above a reference; infinity if it is not above it.

    The hard prompt is scored on the same rows, so two measured scores are compared.
    """
    if reference >= target:
        return math.inf
    if source == HARD_PROMPT:
        return planning.rows_needed(target - reference, planning.disagreement(reference, target))
    return rows_needed(reference, target)


def _power_over(reference: float, source: str, target: float, rows: int) -> float:
    """Return the power of the comparison of `_needed` with this number of rows."""
    if source == HARD_PROMPT:
        return planning.power_of_rows(target - reference, planning.disagreement(reference, target), rows)
    return power_of(reference, target, rows)


def _to_win(settings: RecipeSettings, plan: Plan, metric: str, baseline: Baseline | str, ceiling: float) -> Finding:
    title = "Possible gain"
    if plan.target > ceiling:
        said = f"The target is {plan.target}, but contradicting test rows allow at most {ceiling:.3f}."
        return Finding(
            "to_win", title, "red", said, "Correct the test rows, or lower kpi.target.", {"ceiling": ceiling}
        )
    if isinstance(baseline, str):
        if baseline == NO_BASELINE_FOR_ENCODERS:
            return Finding("to_win", title, "green", baseline)
        remedy = f"Run it: python recipes/readiness.py --readiness.config {settings.path} --readiness.plan {plan.path} "
        remedy += "--readiness.run_baseline true"
        return Finding("to_win", title, "amber", f"The score of a hard prompt is unknown. {baseline}", remedy)
    facts = {
        "baseline": baseline.value,
        "interval": [baseline.low, baseline.high],
        "record": baseline.path,
        "target": plan.target,
        "ceiling": ceiling,
        "left": ceiling - baseline.value,
    }
    said = (
        f"The hard prompt reaches {baseline.value:.3f} in {metric} (95 % interval {baseline.low:.3f} to "
        f"{baseline.high:.3f}). "
    )
    if baseline.value >= plan.target:
        remedy = "Use the hard prompt, or raise kpi.target to a value that is worth the training."
        return Finding("to_win", title, "amber", f"{said}The target is reached already ({plan.target}).", remedy, facts)
    left = 100 * (ceiling - baseline.value)
    said += (
        f"The target is {100 * (plan.target - baseline.value):.1f} points higher; "
        f"at most {left:.1f} points are possible."
    )
    return Finding("to_win", title, "green", said, "", facts)


def cost(settings: RecipeSettings, measured: Measured, rate: float) -> Finding:
    """Return the finding on the time of a run: floating-point operations divided by the speed of this machine.

    Args:
        settings: settings of the recipe.
        measured: the rows as tokens.
        rate: floating-point operations per second that a plain product of matrices reaches.
    """
    title = "Cost of a run"
    if measured.parameters is None:
        said = "Unknown: the base model cannot be built without its weights."
        return Finding("cost", title, "amber", said, "Time a run of ten steps: --training.steps 10.")
    parts = seconds_of_run(settings, measured, rate)
    total = sum(parts.values())
    of = "" if settings.candidates == 1 else f" of {settings.candidates} candidates"
    said = f"About {spoken(total)}{of} on this machine, between {spoken(total / SPREAD)} and {spoken(SPREAD * total)}."
    table = [{"part": name, "time": spoken(seconds)} for name, seconds in parts.items()]
    facts = {"seconds": parts, "flops_per_second": rate, "parameters": measured.parameters}
    return Finding("cost", title, "green", said, "", facts, table)


def seconds_of_run(settings: RecipeSettings, measured: Measured, rate: float) -> dict[str, float]:
    """Return the estimated seconds of training, validation and test."""
    assert measured.parameters is not None
    per_token = measured.parameters / (STEP_EFFICIENCY * rate)
    mean = {
        split: sum(found) / len(found)
        for split in ("train", "validation", "test")
        if (found := measured.lengths(split))
    }
    written = not measured.data.test[0].choices and measured.spec.kind != "encoder"
    training = settings.training
    steps = 0 if METHODS[settings.method].what == "written" else training.steps * settings.candidates
    flops = WHOLE if settings.method == "full_finetuning" else SOFT
    validated = min(training.eval_rows or len(measured.data.validation), len(measured.data.validation))
    rounds = math.ceil(steps / training.eval_every)
    answers = _target_tokens(measured) if written else 0.0
    decoding = FORWARD * measured.parameters * answers / (DECODING_EFFICIENCY * rate)
    of_validation = FORWARD * per_token * mean["validation"] + (decoding if training.best_by != "loss" else 0.0)
    # CPT reads the demonstrations in each step; context tuning computes their keys and values once.
    read = measured.demonstrations * (steps if isinstance(settings.demonstrations, CPTConfig) else 1)
    return {
        "training": (steps * training.batch_size * mean["train"] + read) * flops * per_token,
        "validation": rounds * validated * of_validation,
        "test": len(measured.data.test) * (FORWARD * per_token * mean["test"] + decoding),
    }


def _target_tokens(measured: Measured) -> float:
    """Return the mean number of target tokens in test."""
    examples = measured.data.test
    return sum(len(example.document.target_ids) for example in examples) / len(examples)


def measure_rate(settings: RecipeSettings, size: int = 1024, seconds: float = 0.3) -> float:
    """Return the floating-point operations per second that products of two square matrices reach on this machine."""
    device = default_device()
    kind = dtype_of(settings.model, device)
    first = torch.randn(size, size, device=device, dtype=kind)
    first @ first
    done, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        result = first @ first
        done += 1
        if device.type != "cpu":
            result.sum().item()  # waits for the device
    return done * 2 * size**3 / (time.perf_counter() - begin)


def ceiling_of(facts: Mapping[str, Any]) -> float:
    """Return the best accuracy on test that the finding on contradictions leaves possible."""
    return float(facts.get("best_accuracy_on_test", 1.0))
