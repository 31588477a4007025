"""Run a sweep: train candidates with different settings, drop worse ones early, and choose the best."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from softprompts.checkpoints.folders import checkpoint_folders, is_ours, remove
from softprompts.config.sections import EvaluationConfig
from softprompts.encoding.documents import EncodedTask, with_soft_prompt
from softprompts.encoding.targets import warn_of_cut_targets
from softprompts.engine.forward import Engine
from softprompts.errors import UserError
from softprompts.metrics.scoring import TRIED, load_metrics, reported
from softprompts.reports.plots import as_read, plot_sweep
from softprompts.reports.tables import markdown_table
from softprompts.runs.fingerprints import inputs_of
from softprompts.runs.record import Progress, Standing, ranked
from softprompts.runs.run import Run
from softprompts.sweeps.grid import SECTIONS, Grid, Point, beyond
from softprompts.sweeps.halving import go_on, rungs
from softprompts.system.files import replacing, write_atomically
from softprompts.tasks.checks import warn_of_scored_rows
from softprompts.training.checks import check_training
from softprompts.training.loop import say_start, train_side_by_side
from softprompts.training.state import Candidate, make_candidate

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

LEFT = "left.json"  # the progress of a candidate that left, whose checkpoints are deleted

# A function that builds models with the settings of these points, and the engine that runs them.
Build = Callable[[Sequence[Point]], Engine]


@dataclass
class Contender:
    """A candidate of a sweep. Its model need not be in memory.

    `left_at` is the step after which it left, and `left_rung` the rung; both are None if it has not left. The records
    of older sweeps have no rung.
    """

    number: int
    point: Point
    folder: Path
    progress: Progress = field(default_factory=Progress)
    left_at: int | None = None
    left_rung: float | None = None
    failure: str | None = None

    def pause(self, rung: float) -> int:
        """Return the last step of a share of its training."""
        return math.ceil(rung * self.point.training.steps)

    def came(self, rung: float) -> bool:
        """Return whether it was trained up to a rung, or ended early because it no longer improved.

        A candidate that left does not count at later rungs, even if its patience was spent or they have the same step.
        """
        if self.left_rung is not None and rung > self.left_rung:
            return False
        patience = self.point.training.patience
        spent = patience is not None and self.progress.validations_without_gain >= patience
        return not self.failure and (self.progress.step >= self.pause(rung) or spent)

    def validated(self, rung: float) -> list[dict[str, float]]:
        """Return the validations up to a rung, in their order."""
        return [e for e in self.progress.history if "validation_loss" in e and e["step"] <= self.pause(rung)]

    def value(self, rung: float) -> float:
        """Return the best validation up to a rung, larger is better; minus infinity if none was finite.

        The validation before the first step counts only if there is no other. Otherwise a good initial text would stay
        in the sweep for its own sake, whatever it learns.
        """
        by = self.point.training.best_by
        learned = [e for e in self.validated(rung) if e["step"]] or self.validated(rung)
        finite = [e for e in learned if math.isfinite(e["validation_loss"])]  # otherwise the predictions mean nothing
        values = [-e["validation_loss"] if by == "loss" else e[f"validation_{by}"] for e in finite]
        return max((v for v in values if math.isfinite(v)), default=-math.inf)

    def latest_loss(self, rung: float) -> float:
        """Return the loss of the last validation up to a rung.

        It decides between candidates with one value, as accuracies of few rows often are.
        """
        loss = next((e["validation_loss"] for e in reversed(self.validated(rung))), math.inf)
        return loss if math.isfinite(loss) else math.inf

    @property
    def standing(self) -> Standing:
        """The candidate's entry in the record."""
        validations = [entry for entry in self.progress.history if "validation_loss" in entry]
        value = None if self.failure else self.progress.best_value
        return Standing(
            self.point.values,
            value,
            self.progress.best_step,
            validations,
            self.failure,
            self.progress.step,
            self.point.training.steps,
            self.left_at is not None,
        )


@dataclass
class Sweep:
    """A sweep in progress."""

    grid: Grid
    build: Build
    together: bool
    data: EncodedTask
    evaluation: EvaluationConfig
    run: Run
    contenders: list[Contender] = field(default_factory=list)

    def add(self, points: Sequence[Point]) -> list[Contender]:
        """Add candidates. Those that left before a resume are added with their progress.

        Raises:
            UserError: settings that cannot be combined.
        """
        task = self.data.task
        metrics = load_metrics(task.metrics, task.schema, task.metric_data)
        names = reported(metrics, [example.row.target for example in self.data.train[:TRIED]])
        for point in points:
            check_training(point.training, self.run.accelerator, names, len(self.data.train))
        new = []
        for number, point in enumerate(points, len(self.contenders)):
            contender = Contender(number, point, self.run.checkpoints / f"{number:03d}")
            if (contender.folder / LEFT).is_file():
                record = json.loads((contender.folder / LEFT).read_text(encoding="utf-8"))
                contender.progress = Progress(**record["progress"])
                contender.left_at, contender.failure = record["left_at"], record["failure"]
                contender.left_rung = record.get("left_rung")
            new.append(contender)
        self.contenders += new
        return new

    def train(self, new: Sequence[Contender]) -> None:
        """Train these candidates from rung to rung. At each rung, the worse ones leave."""
        factor = self.grid.sweep.reduction_factor
        for rung in rungs(len(self.grid.points()), factor, self.grid.sweep.first_rung):
            alive = [c for c in new if c.left_at is None]
            for group in [alive] if self.together and alive else [[c] for c in alive]:
                self.advance(group, rung)
                # Accelerate keeps each engine that it has prepared, with its copy of the base model.
                self.run.accelerator.free_memory()
                gc.collect()  # a model may refer to itself
            here = {c.number: (c.value(rung), -c.latest_loss(rung)) for c in self.contenders if c.came(rung)}
            stays = go_on(here, factor) if factor and rung < 1 else set(here)
            for contender in alive:
                if contender.number not in stays:
                    self.leave(contender, rung)

    def advance(self, group: Sequence[Contender], rung: float) -> None:
        """Train some candidates in the same forward passes up to a rung.

        Raises:
            UserError: as `training.train`; a candidate of the grid, not an added one, cannot be built.
        """
        try:
            engine, candidates = self.open(group, rung)
        except UserError as error:
            if group[0].number < len(self.grid.points()):
                raise
            for contender in group:
                contender.failure = str(error)
            return
        if not any(c.left_at is not None or c.progress.step for c in self.contenders):
            say_start(candidates, self.run)
        train_side_by_side(engine, candidates, self.evaluation, self.run)
        for contender, candidate in zip(group, candidates, strict=True):
            contender.progress, contender.failure = candidate.progress, candidate.failure
            if contender.value(rung) == -math.inf and not contender.failure:
                contender.failure = "no validation gave a finite number; check the validation losses and model.dtype"

    def open(self, group: Sequence[Contender], rung: float) -> tuple[Engine, list[Candidate]]:
        """Return some candidates with their models at their newest checkpoints, and their engine."""
        engine = self.build([c.point for c in group])
        inputs = inputs_of(self.data, engine.model)
        candidates = [
            make_candidate(
                engine,
                index,
                data=with_soft_prompt(self.data, index),
                training=contender.point.training,
                seed=contender.point.seed,
                folder=contender.folder,
                name=contender.point.name,
                pause=contender.pause(rung),
                inputs=inputs,
            )
            for index, contender in enumerate(group)
        ]
        return engine, candidates

    def leave(self, contender: Contender, rung: float) -> None:
        """Remove a candidate at a rung: keep its progress, and delete its checkpoints unless a failure names them."""
        contender.left_at, contender.left_rung = contender.progress.step, rung
        record = {
            "left_at": contender.left_at,
            "left_rung": rung,
            "failure": contender.failure,
            "progress": asdict(contender.progress),
        }
        contender.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(contender.folder / LEFT, json.dumps(record))
        for place in () if contender.failure else checkpoint_folders(contender.folder).values():
            if is_ours(place):
                remove(place)

    @property
    def best(self) -> Contender:
        """The best on validation of those that were trained to the end.

        Raises:
            UserError: every candidate was given up.
        """
        ended = [c for c in self.contenders if c.left_at is None and c.came(1.0)]
        if not ended:
            raise UserError(f"every candidate was given up; the last: {self.contenders[-1].failure}")
        return max(ended, key=lambda c: c.standing.rank)

    def further(self) -> list[Point]:
        """Return candidates beyond the best, for each of its numbers that is at an edge of the tried values.

        If the best is no better than its initial values, there are none: its numbers were not chosen.
        """
        if not self.best.progress.best_step:
            return []
        points = []
        tried = [c.point.values for c in self.contenders]
        for values in beyond(self.best.point.values, tried, self.grid.sweep.extend):
            try:
                points.append(self.grid.point(values))
            except UserError as error:  # the key does not accept the value, so this is its limit
                self.run.say(f"sweep.extensions: no further candidate: {error}")
        return points


def run_sweep(
    grid: Grid,
    build: Build,
    tokenizer: PreTrainedTokenizerBase,
    data: EncodedTask,
    evaluation: EvaluationConfig,
    run: Run,
    *,
    together: bool = True,
) -> tuple[Engine, Candidate, list[Standing]]:
    """Train the candidates of a grid; return the best on validation with its engine, and all standings.

    Args:
        grid: the settings that vary.
        build: returns the engine over one model for each of the given points, in their order.
        tokenizer: the base model's tokenizer.
        data: the tokenized task.
        evaluation: settings of the scoring on validation.
        run: the run.
        together: whether candidates are trained in the same forward passes; otherwise one after another.

    Raises:
        UserError, Interrupted: as `training.train`; there are several processes; every candidate was given up.
    """
    if run.accelerator.num_processes > 1:
        raise UserError("a sweep trains its candidates in one process; launch it with --num_processes 1")
    sweep = Sweep(grid, build, together, data, evaluation, run)
    points = grid.points()
    new = sweep.add(points)
    warn_of_scored_rows("training.eval_rows", data.validation, points[0].training.eval_rows)
    warn_of_cut_targets(data, tokenizer, evaluation.max_new_tokens, evaluation.stop)
    sweep.train(new)
    left = grid.sweep.extensions
    while left and (further := sweep.further()[:left]):
        left -= len(further)
        for point in further:
            run.say(f"sweep.extensions: the best is at an edge of the tried values; trying {point.name}")
            sweep.train(sweep.add([point]))
    engine, (best,) = sweep.open([sweep.best], 1.0)
    best.take_best()
    return engine, best, [c.standing for c in sweep.contenders]


def as_chosen(run: Run, grid: Grid, standings: Sequence[Standing]) -> Run:
    """Return the run with the settings and the seed of the best candidate, as a run of its own would have them."""
    best = grid.point(ranked(standings)[0].values)
    section = SECTIONS[grid.sweep.method]
    own = {section: asdict(best.method)} if section else {}
    settings = run.settings | own | {"training": asdict(best.training)}
    return replace(run, settings=settings | {"run": settings["run"] | {"seed": best.seed}}, seed=best.seed)


def save_sweep(run: Run, standings: Sequence[Standing], best_by: str) -> None:
    """Print the table and write `sweep.md` and `sweep.png`."""
    text = table(standings, best_by)
    if run.accelerator.is_main_process:
        write_atomically(run.output("sweep.md"), text + "\n")
        with replacing(run.output("sweep.png")) as picture:
            plot_sweep(standings, best_by, picture)
    run.say(text)
    run.say(cost_in_words(standings))


def table(standings: Sequence[Standing], best_by: str) -> str:
    """Return the candidates as a Markdown table: those trained to the end first, those given up last."""
    keys = list(standings[0].values)
    short = [k.removeprefix("training.").removeprefix("prompt.") for k in keys]
    head = [*short, f"best validation {best_by}", "step", "steps made"]
    rows = []
    for standing in ranked(standings):
        value = "given up" if standing.value is None else f"{as_read(standing.value, best_by):.4f}"
        made = str(standing.steps)
        rows.append([*(str(standing.values[k]) for k in keys), value, str(standing.best_step), made])
    return markdown_table(head, rows)


def cost_in_words(standings: Sequence[Standing]) -> str:
    """Return the cost of a sweep in words, and its share of the full grid."""
    made, whole = sum(s.steps for s in standings), sum(s.planned for s in standings)
    return f"{len(standings)} candidates made {made} steps, {made / whole:.0%} of the {whole} steps of a full grid"
