"""Make the candidates of a sweep: one set of settings of the method and of training per candidate."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_type_hints

from softprompts.config.messages import check_values, wrong_value
from softprompts.config.methods import EncoderConfig, IA3Config, LoraConfig, PrefixConfig, PromptConfig
from softprompts.config.sections import RunConfig, TrainingConfig
from softprompts.errors import UserError, nearest

from jsonargparse import ArgumentError, ArgumentParser

# The section of each method in a sweep; full fine-tuning has none.
SECTIONS: dict[str, str | None] = {
    "prompt_tuning": "prompt",
    "prefix_tuning": "prefix",
    "p_tuning": "encoder",
    "lora": "lora",
    "ia3": "ia3",
    "full_finetuning": None,
}
TEACHER = ("", "_context", "_weight", "_temperature", "_any_base")
# Settings that all candidates share: those of the comparison and of the forward passes.
COMMON = ("best_by", "eval_rows", "micro_batch_tokens", "energy", *(f"teacher{end}" for end in TEACHER))
SEED = "run.seed"
RATE = "training.learning_rate"

Settings = PromptConfig | PrefixConfig | EncoderConfig | LoraConfig | IA3Config


@dataclass
class SweepConfig:
    """Candidates of one method: every combination of the values in `grid`. Validation chooses the best.

    Soft prompts are trained in the same forward passes over one base model. LoRA, IA3 and full fine-tuning change the
    base model, and every method changes an encoder's classifier. Their candidates are trained one after another.

    Args:
        grid: values of each key that varies, e.g. {training.learning_rate: [0.01, 0.02], run.seed: [0, 1]}. Keys may be
            those of the method's section and of training, and run.seed; the best on validation is kept.
        method: the method; its settings are in the section `prompt`, `prefix`, `encoder` (P-tuning), `lora` or
            `ia3`. Context tuning, CPT and multitask prompt tuning have their settings compared by a benchmark's grid.
        reduction_factor: successive halving (Jamieson and Talwalkar 2016; Li et al. 2018): after parts of the steps,
            for example 1/8, 1/4 and 1/2, the best 1/reduction_factor of the candidates continue. By default none leave.
        first_rung: smallest share of the steps after which candidates leave, e.g. 0.25. Low and high rates have a
            disadvantage soon after the warm-up. By default the number of candidates decides.
        extensions: most further candidates, over all keys together. While the best value of a number is the largest or
            the smallest tried, one candidate beyond it is added. It continues while it is among the best
            1/reduction_factor of all candidates that reached the same step (Li et al. 2020).
        extend: keys of the grid that may extend beyond their edges; by default only the learning rate, because longer
            prompts and larger ranks cost more.

    Raises:
        UserError: a number outside its range.
    """

    grid: dict[str, list[str | int | float | bool | None]]
    method: str = "prompt_tuning"
    reduction_factor: int | None = None
    first_rung: float | None = None
    extensions: int = 0
    extend: list[str] = field(default_factory=lambda: [RATE])

    def __post_init__(self) -> None:
        if self.reduction_factor is not None and self.reduction_factor < 2:
            raise UserError(
                f"sweep.reduction_factor: expected 2 or more, found {self.reduction_factor}; null trains all to the end"
            )
        if self.first_rung is not None and not 0 < self.first_rung < 1:
            raise UserError(f"sweep.first_rung: expected a share between 0 and 1, found {self.first_rung}")
        if self.first_rung is not None and self.reduction_factor is None:
            raise UserError("sweep.first_rung: needs sweep.reduction_factor, because without it no candidate leaves")
        if self.reduction_factor is not None and "training.steps" in self.grid:
            raise UserError(
                "sweep.grid: training.steps cannot vary if candidates leave, because they are ranked after a share of "
                "their steps; set sweep.reduction_factor to null"
            )
        if self.extensions < 0:
            raise UserError(f"sweep.extensions: expected 0 or more, found {self.extensions}")


@dataclass(frozen=True)
class Point:
    """The settings of one candidate; `values` are the varied ones, by dotted key.

    `method` is the section of the method, None for full fine-tuning.
    """

    values: dict[str, Any]
    method: Any
    training: TrainingConfig
    seed: int

    @property
    def name(self) -> str:
        """The varied values as text: "learning_rate=0.01 seed=1"."""
        return " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in self.values.items())


@dataclass(frozen=True)
class Grid:
    """The settings that a sweep may vary. `sections` are those of the method, of training and of the run."""

    sweep: SweepConfig
    sections: Mapping[str, Any]

    @property
    def valid(self) -> list[str]:
        """The dotted keys that may vary."""
        keys = [f"{name}.{f.name}" for name, section in self.sections.items() if name != "run" for f in fields(section)]
        return [key for key in keys if key not in [f"training.{name}" for name in COMMON]] + [SEED]

    def point(self, values: dict[str, Any]) -> Point:
        """Return the candidate with these values.

        Raises:
            UserError: a key does not accept a value, or not in combination with another.
        """
        changed = {}
        for section, before in self.sections.items():
            own = {k.split(".")[1]: v for k, v in values.items() if k.startswith(f"{section}.")}
            changed[section] = replace(before, **own)
            check_values(section, changed[section])
        method = SECTIONS[self.sweep.method]
        return Point(values, changed[method] if method else None, changed["training"], changed["run"].seed)

    def points(self) -> list[Point]:
        """Return every candidate: all combinations of `sweep.grid`, its last key varying fastest.

        Raises:
            UserError: a key is unknown or may not vary; there are no values; a value occurs twice or has the wrong
                type.
        """
        if not self.sweep.grid:
            raise UserError("sweep.grid: expected at least one key with its values")
        typed = {key: self._typed_values(key, values) for key, values in self.sweep.grid.items()}
        return [self.point(dict(zip(typed, made, strict=True))) for made in itertools.product(*typed.values())]

    def _typed_values(self, key: str, values: Sequence[Any]) -> list[Any]:
        if key not in self.valid:
            raise UserError(f'sweep.grid: "{key}" cannot vary{nearest(key, self.valid)}')
        section, name = key.split(".")
        hint = get_type_hints(type(self.sections[section]))[name]
        typed = [typed_value(key, hint, value) for value in values]
        if not values or any(value in typed[:i] for i, value in enumerate(typed)):
            raise UserError(f"sweep.grid: {key}: expected one or more different values, found {values}")
        return typed


def grid_of(sweep: SweepConfig, sections: Mapping[str, Settings], training: TrainingConfig, run: RunConfig) -> Grid:
    """Return the settings that a sweep may vary.

    Args:
        sweep: the sweep.
        sections: sections of all methods, by name.
        training: settings of training that the grid does not vary.
        run: settings of the run that the grid does not vary.

    Raises:
        UserError: the method is unknown; settings belong to another method; energy is set, which candidates share; a
            teacher is set, which candidates cannot have.
    """
    if sweep.method not in SECTIONS:
        raise UserError(f'sweep.method: "{sweep.method}"{nearest(sweep.method, SECTIONS)}')
    for key in sweep.extend:
        if key not in (RATE, *sweep.grid):  # the learning rate keeps its default, whether or not it varies
            raise UserError(f'sweep.extend: "{key}" is not in sweep.grid{nearest(key, sweep.grid)}')
    if training.energy:
        raise UserError("training.energy: the candidates of a sweep share forward passes; measure a separate run")
    if training.taught:
        key = "teacher" if training.teacher else "teacher_context"
        raise UserError(
            f"training.{key}: the candidates of a sweep have no teacher; set it to null, or train a single run"
        )
    mine = SECTIONS[sweep.method]
    for name, section in sections.items():
        if name != mine and section != type(section)():
            reads = f"reads {mine}" if mine else "has no section of its own"
            raise UserError(f"{name}: sweep.method is {sweep.method}, which {reads}; remove {name}")
    method = {mine: sections[mine]} if mine else {}
    return Grid(sweep, {**method, "training": training, "run": run})


def beyond(best: Mapping[str, Any], tried: Sequence[Mapping[str, Any]], keys: Collection[str]) -> list[dict[str, Any]]:
    """Return the values of one candidate for each number of the best that is at an edge of the tried values.

    A number continues by the ratio of the last two values if all are above zero, else by their difference. Seeds have
    no edge. A number with a single value is not extended.

    Args:
        best: the values of the best candidate, by key.
        tried: the values of all candidates.
        keys: the keys that may be extended.
    """
    found = []
    for key, value in best.items():
        if key not in keys or key == SEED or not _is_number(value):
            continue
        numbers = sorted({v[key] for v in tried if _is_number(v[key])})
        if len(numbers) < 2 or value not in (numbers[0], numbers[-1]):
            continue
        inner = numbers[1] if value == numbers[0] else numbers[-2]
        further = value * value / inner if numbers[0] > 0 else 2 * value - inner
        if isinstance(value, int):
            further = max(round(further), 1) if numbers[0] > 0 else round(further)
        else:
            further = _rounded(further)
        if further not in numbers:
            found.append({**best, key: further})
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _rounded(value: float) -> float:
    """Return a number rounded to two digits, because 0.03 * 0.03 / 0.01 is not exactly 0.09."""
    return value if value == 0 else round(value, 1 - math.floor(math.log10(abs(value))))


def typed_value(key: str, hint: Any, value: Any) -> Any:
    """Return a value of a key as the type of its setting; `UserError` if it has another type."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        return parser.parse_object({"value": value}).value
    except ArgumentError:
        raise UserError(f"sweep.grid: {wrong_value(key, hint, str(value))}") from None
