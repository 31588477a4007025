"""A sweep's grid becomes candidates, or an error of one line; validation alone chooses among them."""

from __future__ import annotations

import copy
import json
import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from helpers import Build, Parts, prompt_config
from softprompts.checkpoints.parameters import trainable_tensors
from softprompts.config.methods import PrefixConfig, PromptConfig
from softprompts.config.sections import RunConfig, TrainingConfig
from softprompts.engine.forward import Engine
from softprompts.errors import UserError
from softprompts.methods.soft_prompts.prompt_tuning import add_soft_prompt
from softprompts.runs.record import Standing, ranked
from softprompts.sweeps.grid import Grid, Point, SweepConfig, beyond, grid_of
from softprompts.sweeps.halving import go_on, rungs
from softprompts.sweeps.sweep import Contender, Sweep, run_sweep
from softprompts.training import loop as training_module
from softprompts.training.state import Candidate

import pytest
import torch
import yaml
from safetensors.torch import load_file

PROMPT = PromptConfig(
    num_virtual_tokens=4,
    prompt_tuning_init="TEXT",
    prompt_tuning_init_text="a b",
)
TEXT_START: dict[str, Any] = {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "the film"}
TRAINING = TrainingConfig(steps=7, schedule="constant", patience=2)
RUN = RunConfig("nowhere", seed=5)


def points_of(grid: str, prompt: PromptConfig = PROMPT) -> list[Point]:
    """Return the points of a grid in the form of a YAML file."""
    return grid_of(SweepConfig(yaml.safe_load(grid)), {"prompt": prompt}, TRAINING, RUN).points()


def test_every_combination_is_a_point_and_the_last_key_varies_fastest() -> None:
    made = points_of("{run.seed: [3, 0], prompt.num_virtual_tokens: [1, 8], training.learning_rate: [0.5, 0.25, 1]}")
    assert [(p.seed, p.method.num_virtual_tokens, p.training.learning_rate) for p in made] == [
        (seed, tokens, rate) for seed in (3, 0) for tokens in (1, 8) for rate in (0.5, 0.25, 1.0)
    ]
    assert made[1].values == {"run.seed": 3, "prompt.num_virtual_tokens": 1, "training.learning_rate": 0.25}
    assert list(made[1].values) == ["run.seed", "prompt.num_virtual_tokens", "training.learning_rate"]
    assert made[1].name == "seed=3 num_virtual_tokens=1 learning_rate=0.25"
    assert len({p.name for p in made}) == 12


def test_what_the_grid_does_not_name_stays() -> None:
    (point,) = points_of("{training.steps: [9]}")
    assert point.training == replace(TRAINING, steps=9)
    assert (point.method, point.seed) == (PROMPT, 5)


def test_the_settings_handed_in_stay_as_they_are() -> None:
    sweep = SweepConfig({"training.steps": ["9", 8], "prompt.num_virtual_tokens": [2], "run.seed": [1]})
    handed = (sweep, {"prompt": PROMPT}, TRAINING, RUN)
    before = copy.deepcopy(handed)
    made = grid_of(*handed).points()
    assert handed == before
    made[0].training.steps = made[0].method.num_virtual_tokens = 77
    assert handed == before


@pytest.mark.parametrize(
    ("grid", "values"),
    [
        ("{training.learning_rate: [1e-2, 5.0e-3, 1, '0.5']}", [0.01, 0.005, 1.0, 0.5]),  # YAML reads 1e-2 as a text
        ("{training.steps: [10, '20']}", [10, 20]),
        ("{training.patience: [null, 3]}", [None, 3]),
        ("{training.schedule: [linear, cosine]}", ["linear", "cosine"]),
        ("{prompt.prompt_tuning_init_text: [fine, 'a: b']}", ["fine", "a: b"]),
        ("{prompt.prompt_tuning_init: [TEXT, RANDOM]}", ["TEXT", "RANDOM"]),
        ("{run.seed: [0, 1]}", [0, 1]),
    ],
)
def test_values_get_the_type_of_their_key(grid: str, values: list[Any]) -> None:
    made = points_of(grid)
    ((key,),) = {tuple(p.values) for p in made}
    section, name = key.split(".")
    for point, value in zip(made, values, strict=True):
        given = (
            point.seed if section == "run" else getattr(point.training if section == "training" else point.method, name)
        )
        assert (given, point.values[key]) == (value, value)
        assert isinstance(given, type(value))
        assert point.name == f"{name}={value}"


def test_keys_that_belong_together_may_vary_together() -> None:
    """Whatever the order of the keys."""
    random = PromptConfig(num_virtual_tokens=4, prompt_tuning_init="RANDOM")
    keys = ["prompt.prompt_tuning_init: [TEXT]", "prompt.prompt_tuning_init_text: [good, bad]"]
    for grid in (", ".join(keys), ", ".join(reversed(keys))):
        made = points_of(f"{{{grid}}}", random)
        assert [(p.method.prompt_tuning_init, p.method.prompt_tuning_init_text) for p in made] == [
            ("TEXT", "good"),
            ("TEXT", "bad"),
        ]


def test_ways_to_start_may_vary() -> None:
    prompt = PromptConfig(num_virtual_tokens=4)
    made = points_of("{prompt.init_from: [null, uniform, labels]}", prompt)
    assert [type(p.method) for p in made] == [PromptConfig] * 3
    assert [getattr(p.method, "init_from") for p in made] == [None, "uniform", "labels"]  # noqa: B009
    with pytest.raises(
        UserError, match=r'^sweep.grid: prompt.init_from: expected .*, found labls \(did you mean "labels"'
    ):
        points_of("{prompt.init_from: [labls]}", prompt)
    with pytest.raises(UserError, match=r"^prompt.init_from: uniform requires prompt_tuning_init: RANDOM, found TEXT"):
        points_of(
            "{prompt.init_from: [uniform], prompt.prompt_tuning_init: [TEXT], prompt.prompt_tuning_init_text: [a]}",
            prompt,
        )


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("{training.learning_rat: [1]}", 'rat" cannot vary (did you mean "training.learning_rate"?)'),
        ("{learning_rate: [1]}", '"learning_rate" cannot vary (did you mean "training.learning_rate"?)'),
        ("{seed: [1]}", '"seed" cannot vary (did you mean "run.seed"?)'),
        ("{training: [1]}", '"training" cannot vary'),
        ("{training.best_by: [loss]}", '"training.best_by" cannot vary'),
        ("{training.eval_rows: [5]}", '"training.eval_rows" cannot vary'),
        ("{training.micro_batch_tokens: [5]}", '"training.micro_batch_tokens" cannot vary'),
        ("{model.dtype: [float32]}", '"model.dtype" cannot vary'),
        ("{run.output_dir: [a, b]}", '"run.output_dir" cannot vary'),
        ("{prompt.tokenizer_name_or_path: [a]}", '"prompt.tokenizer_name_or_path" cannot vary'),
        ("{}", "expected at least one key with its values"),
        ("{run.seed: []}", "run.seed: expected one or more different values, found []"),
        ("{run.seed: [1, 2, 1]}", "run.seed: expected one or more different values, found [1, 2, 1]"),
        ("{training.learning_rate: [0.01, 1e-2]}", "training.learning_rate: expected one or more different values"),
        ("{training.learning_rate: [abc]}", "training.learning_rate: expected number, found abc"),
        ("{training.learning_rate: [0.1, [1]]}", "training.learning_rate: expected number, found [1]"),
        ("{training.steps: [1.5]}", "training.steps: expected whole number, found 1.5"),
        ("{run.seed: [0, false]}", "run.seed: expected whole number, found False"),
        ("{training.steps: [null]}", "training.steps: expected whole number, found null"),
        ("{training.schedule: [liner]}", 'constant_with_warmup, found liner (did you mean "linear"?)'),
        ("{prompt.prompt_tuning_init: [TXT]}", 'TEXT | SAMPLE_VOCAB | RANDOM | null, found TXT (did you mean "TEXT"?)'),
    ],
)  # fmt: skip
def test_a_bad_grid_is_one_line(grid: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        points_of(grid)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@dataclass
class Outcome:
    """What `run_sweep` returned."""

    engine: Engine
    best: Candidate
    standings: list[Standing]


def sweep(parts: Parts, grid: Grid) -> Outcome:
    """Run a sweep of soft prompts on the base model of `parts`."""
    tokenizer = parts.engine.tokenizer

    def build(points: Sequence[Point]) -> Engine:
        base = parts.model.get_base_model()
        bank = [add_soft_prompt(base, tokenizer, p.method, seed=p.seed) for p in points]
        return Engine(bank[0], tokenizer, bank=bank[1:])

    return Outcome(*run_sweep(grid, build, tokenizer, parts.data, parts.evaluation, parts.run))


def grid_for(parts: Parts, prompt: PromptConfig, values: dict[str, list[Any]], **settings: Any) -> Grid:
    """Return a grid over a soft prompt and the training of `parts`."""
    return grid_of(SweepConfig(values, **settings), {"prompt": prompt}, parts.training, RUN)


@pytest.fixture
def prompt(tiny_model: Path) -> PromptConfig:
    return prompt_config(tiny_model, 3, prompt_tuning_init="SAMPLE_VOCAB")


def test_the_best_on_validation_is_returned_at_its_best_step(make: Build, prompt: PromptConfig) -> None:
    parts = make(steps=4, eval_every=2)
    grid = grid_for(parts, prompt, {"training.learning_rate": [1e-30, 0.1, 1e300, 0.01]})
    made = sweep(parts, grid)
    best, standings = made.best, made.standings
    assert [s.values for s in standings] == [p.values for p in grid.points()]
    assert [s.failure is None for s in standings] == [True, True, False, True]
    assert standings[2].value is None
    values = [s.value for s in standings if s.value is not None]
    assert best.name == "learning_rate=0.1", "neither the first nor the last"
    assert best.progress.best_value == max(values)
    assert [s.steps for s in standings] == [4, 4, standings[2].steps, 4]
    for standing in standings[:2]:
        by_step = {e["step"]: -e["validation_loss"] for e in standing.validations}
        assert list(by_step) == [0, 2, 4]
        assert standing.value == max(by_step.values()) == by_step[standing.best_step]
    folders = sorted(parts.run.checkpoints.iterdir())
    assert [p.name for p in folders] == ["000", "001", "002", "003"]
    saved = load_file(folders[1] / f"step-{best.progress.best_step:06d}" / "trainable.safetensors")
    torch.testing.assert_close(trainable_tensors(best.model), saved, rtol=0, atol=0)


def test_among_equals_the_smaller_loss_wins(make: Build, prompt: PromptConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_module, "compute_metrics", lambda *_: {"accuracy": 0.5})
    parts = make(steps=1, eval_every=1, best_by="accuracy")
    grid = grid_for(parts, prompt, {"run.seed": [4, 1, 0, 2, 3]})
    made = sweep(parts, grid)
    assert {(s.value, s.best_step) for s in made.standings} == {(0.5, 0)}
    first = [s.validations[0]["validation_loss"] for s in made.standings]
    point = grid.points()[first.index(min(first))]
    assert made.best.seed == point.seed
    base, tokenizer = parts.model.get_base_model(), parts.engine.tokenizer
    (start,) = trainable_tensors(add_soft_prompt(base, tokenizer, prompt, seed=point.seed)).values()
    assert torch.equal(made.best.parameters[0], start), "taken back to its best step, the first"
    assert made.best.seed not in (4, 3), "this test needs seeds of which neither the first nor the last is the best"


def test_a_seed_decides_the_initial_values_and_the_rows(make: Build, prompt: PromptConfig) -> None:
    parts = make(steps=1, eval_every=1)
    seeds: dict[str, list[Any]] = {"run.seed": [1, 2], "training.learning_rate": [0.1, 0.2]}
    starts = [s.validations[0]["validation_loss"] for s in sweep(parts, grid_for(parts, prompt, seeds)).standings]
    assert starts[0] == pytest.approx(starts[1], rel=1e-6)
    assert abs(starts[0] - starts[2]) > 1e-4
    # All start from the same values.
    parts = make("same start", steps=1, eval_every=1)
    standings = sweep(parts, grid_for(parts, replace(prompt, **TEXT_START), seeds)).standings
    first, second = ([s.validations[step]["validation_loss"] for s in standings] for step in (0, 1))
    assert first == pytest.approx([first[0]] * 4, rel=1e-6)
    assert len({round(loss, 4) for loss in second}) == 4, "the rate and the rows make the difference"


def test_a_value_without_sense_is_refused_before_anything_trains(make: Build, prompt: PromptConfig) -> None:
    parts = make()
    with pytest.raises(UserError, match=r"^training.steps: expected a number above 0, found 0$"):
        sweep(parts, grid_for(parts, prompt, {"training.steps": [2, 0]}))
    assert not parts.run.checkpoints.exists()


def test_more_than_one_process_is_refused(make: Build, prompt: PromptConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = make(batch_size=8)
    monkeypatch.setattr(type(parts.run.accelerator), "num_processes", property(lambda _: 2))
    with pytest.raises(UserError, match=r"^a sweep trains .* in one process; launch it with --num_processes 1$"):
        sweep(parts, grid_for(parts, prompt, {"run.seed": [0, 1]}))


def test_if_all_are_given_up_it_is_one_line(make: Build, prompt: PromptConfig) -> None:
    parts = make(steps=4, eval_every=2)
    with pytest.raises(UserError, match=r"^every candidate was given up; the last: the loss or its gradient became"):
        sweep(parts, grid_for(parts, prompt, {"training.learning_rate": [1e300, 1e301]}))


@pytest.mark.parametrize(("candidates", "factor", "shares"), [
    (1, 2, [1]),
    (2, 2, [0.5, 1]),
    (6, 2, [0.125, 0.25, 0.5, 1]),
    (8, 2, [0.125, 0.25, 0.5, 1]),
    (9, 3, [1 / 9, 1 / 3, 1]),
    (8, None, [1]),
])  # fmt: skip
def test_rungs_are_as_many_as_leave_one(candidates: int, factor: int | None, shares: list[float]) -> None:
    assert rungs(candidates, factor) == shares


@pytest.mark.parametrize(("candidates", "first", "shares"), [
    (9, 0.25, [0.25, 0.5, 1]),
    (3, 0.25, [1 / 3, 1]),
    (8, 0.25, [0.25, 0.5, 1]),
    (1, 0.25, [1]),
    (27, 0.064, [0.064, 0.16, 0.4, 1]),
])  # fmt: skip
def test_the_first_rung_is_not_below_the_given_share(candidates: int, first: float, shares: list[float]) -> None:
    assert rungs(candidates, 3, first) == pytest.approx(shares)


def test_the_better_share_goes_on_and_of_equals_the_first() -> None:
    one = dict.fromkeys((0, 3, 5, 7, 9), -1.0)
    values = {0: 0.1, 3: 0.9, 5: 0.5, 7: 0.5, 9: -1.0}
    assert go_on({n: (value, one[n]) for n, value in values.items()}, 2) == {3, 5, 7}
    assert go_on({0: (0.5, -1.0), 1: (0.5, -1.0)}, 2) == {0}
    assert go_on({0: (0.5, -1.0), 1: (0.5, -0.9)}, 2) == {1}, "the smaller loss decides among equals"
    assert go_on({4: (-math.inf, -math.inf)}, 3) == {4}


def planted(curve: Callable[[dict[str, Any], float], float], advanced: list[tuple[int, float]]) -> Any:
    """Return an `advance` that trains nothing: the loss after a share of the updates is `curve(values, share)`."""

    def advance(self: Sweep, group: Sequence[Contender], rung: float) -> None:
        for contender in group:
            advanced.append((contender.number, rung))
            step = contender.pause(rung)
            entry = {"step": step, "validation_loss": curve(contender.point.values, rung)}
            contender.progress.history.append(entry)
            contender.progress.step = step
            contender.progress.best_step, contender.progress.best_value = step, -entry["validation_loss"]

    return advance


@pytest.mark.parametrize(
    "curve",
    [
        pytest.param(lambda v, s: (math.log10(v["training.learning_rate"]) + 2) ** 2 + 1 / s, id="order kept"),
        pytest.param(  # large rates are ahead at first
            lambda v, s: abs(math.log10(v["training.learning_rate"]) + 2) + 0.002 / (s * v["training.learning_rate"]),
            id="late bloomer",
        ),
    ],
)
def test_halving_keeps_what_the_full_grid_keeps(
    curve: Callable[[dict[str, Any], float], float],
    make: Build,
    prompt: PromptConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rates = [10.0**-k for k in range(6, -2, -1)]
    chosen = []
    for factor in (None, 2):
        advanced: list[tuple[int, float]] = []
        monkeypatch.setattr(Sweep, "advance", planted(curve, advanced))
        parts = make(f"factor {factor}", steps=80)
        grid = grid_for(parts, prompt, {"training.learning_rate": rates}, reduction_factor=factor)
        run = Sweep(grid, lambda _, engine=parts.engine: engine, True, parts.data, parts.evaluation, parts.run)
        run.train(run.add(grid.points()))
        chosen.append(run.best.point.values)
        made = [c.progress.step for c in run.contenders]
        assert sorted(made) == ([80] * 8 if factor is None else [10] * 4 + [20] * 2 + [40, 80])
    assert chosen[0] == chosen[1] == {"training.learning_rate": 0.01}


def test_a_sweep_goes_on_outwards_while_the_best_is_an_edge(
    make: Build, prompt: PromptConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def curve(values: dict[str, Any], share: float) -> float:
        off = math.log10(values["training.learning_rate"]) - 1
        return max(-off, 4 * off) + 0.1 / share

    for most, expected in ((1, [0.1]), (8, [0.1, 1.0, 10.0, 100.0])):
        advanced: list[tuple[int, float]] = []
        monkeypatch.setattr(Sweep, "advance", planted(curve, advanced))
        monkeypatch.setattr(Sweep, "open", lambda self, group, rung: (group[0].number, [Nobody()]))
        parts = make(f"{most} extensions", steps=80)
        values: dict[str, list[Any]] = {"training.learning_rate": [0.0001, 0.001, 0.01], "run.seed": [3]}
        grid = grid_for(parts, prompt, values, reduction_factor=2, extensions=most)
        made = sweep(parts, grid)
        assert [s.values for s in made.standings[3:]] == [
            {"training.learning_rate": r, "run.seed": 3} for r in expected
        ]
        assert made.engine == (3 if most == 1 else 5), "the number of the best one"
    assert (6, 1.0) not in advanced, "beyond the best one is worse, and leaves early"
    assert (6, 0.25) in advanced


@pytest.mark.parametrize("most", [0, 1, 2, 3, 5])
def test_extensions_count_the_candidates_of_all_keys_together(
    most: int, make: Build, prompt: PromptConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def curve(values: dict[str, Any], _: float) -> float:
        return 1 / (values["training.learning_rate"] * values["prompt.num_virtual_tokens"])

    monkeypatch.setattr(Sweep, "advance", planted(curve, []))
    monkeypatch.setattr(Sweep, "open", lambda self, group, rung: (group[0].number, [Nobody()]))
    rate, length = "training.learning_rate", "prompt.num_virtual_tokens"
    values: dict[str, list[Any]] = {rate: [0.01, 0.02], length: [2, 4]}
    grid = grid_for(make(), prompt, values, extensions=most, extend=[rate, length])
    found = sweep(make(f"{most}"), grid).standings[4:]
    assert len(found) == most
    outwards = [{rate: 0.04, length: 4}, {rate: 0.02, length: 8}, {rate: 0.08, length: 4}]
    assert [s.values for s in found[:3]] == outwards[:most], "in the order of the grid"


def test_the_best_is_the_first_of_the_order_that_a_reader_sees(
    make: Build, prompt: PromptConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With equal accuracies the loss decides, and the accuracy of a step without a finite loss does not count."""
    losses = {3: 0.5, 1: 0.3, 2: 0.4, 4: math.nan, 0: 0.3}

    def advance(self: Sweep, group: Sequence[Contender], rung: float) -> None:
        for contender in group:
            seed, step = contender.point.seed, contender.pause(rung)
            values = {"step": step, "validation_loss": losses[seed], "validation_accuracy": 1.0 if seed == 4 else 0.75}
            contender.progress.history.append(values)
            contender.progress.step = step
            if math.isfinite(losses[seed]):
                contender.progress.best_step, contender.progress.best_value = step, 0.75

    monkeypatch.setattr(Sweep, "advance", advance)
    parts = make(steps=4, best_by="accuracy")
    grid = grid_for(parts, prompt, {"run.seed": list(losses)}, reduction_factor=2)
    made = Sweep(grid, lambda _: parts.engine, True, parts.data, parts.evaluation, parts.run)
    made.train(made.add(grid.points()))
    nan = made.contenders[3]
    assert (nan.point.seed, nan.value(1.0)) == (4, -math.inf)
    assert nan.left_at == 1, "it leaves first"
    grid = grid_for(parts, prompt, {"run.seed": list(losses)})
    made = Sweep(grid, lambda _: parts.engine, True, parts.data, parts.evaluation, make("whole").run)
    made.train(made.add(grid.points()))
    assert made.best.point.seed == 1
    order = [s.values["run.seed"] for s in ranked([c.standing for c in made.contenders])]
    assert order == [1, 0, 2, 3, 4], "of equals the first; the one without a value last"


class Nobody:
    """Stands for a candidate without a model."""

    def take_best(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize(("best", "tried", "further"), [
    ({"a.x": 0.1}, [0.01, 0.03, 0.1], [{"a.x": 0.33}]),
    ({"a.x": 0.01}, [0.01, 0.03, 0.1], [{"a.x": 0.0033}]),
    ({"a.x": 0.03}, [0.01, 0.03, 0.1], []),
    ({"a.x": 40}, [10, 20, 40], [{"a.x": 80}]),
    ({"a.x": 1}, [1, 2], []),  # half a token is not possible: the rounded value exists already
    ({"a.x": 0}, [0, 2], [{"a.x": -2}]),
    ({"a.x": "b"}, ["a", "b"], []),
    ({"a.x": True}, [True, False], []),
    ({"a.x": 5}, [5], []),
])  # fmt: skip
def test_what_is_beyond_an_edge(best: dict[str, Any], tried: list[Any], further: list[dict[str, Any]]) -> None:
    assert beyond(best, [{"a.x": value} for value in tried], ["a.x"]) == further
    assert beyond(best, [{"a.x": value} for value in tried], ["a.y"]) == []


def test_a_teacher_s_weight_may_not_vary() -> None:
    """With a weight of 0 in the settings, candidates with another weight had no teacher and said nothing."""
    training = replace(TRAINING, teacher="runs/big", teacher_weight=0.0)
    grid = grid_of(SweepConfig({"training.teacher_weight": [0, 0.5]}), {"prompt": PROMPT}, training, RUN)
    with pytest.raises(UserError, match=r'^sweep.grid: "training.teacher_weight" cannot vary'):
        grid.points()


@pytest.mark.parametrize("key", ["teacher", "teacher_context"])
def test_candidates_have_no_teacher(key: str) -> None:
    training: Any = replace(TRAINING, **{key: "the film was good"})
    with pytest.raises(UserError, match=rf"^training.{key}: the candidates of a sweep have no teacher"):
        grid_of(SweepConfig({"run.seed": [0]}), {"prompt": PROMPT}, training, RUN)
    with pytest.raises(UserError, match=rf'^sweep.grid: "training.{key}" cannot vary'):
        points_of(f"{{training.{key}: [a b]}}")


def test_seeds_have_no_edge() -> None:
    assert (
        beyond({"run.seed": 2, "a.x": 2.0}, [{"run.seed": s, "a.x": 2.0} for s in (0, 1, 2)], ["run.seed", "a.x"]) == []
    )


def test_what_left_stays_gone_after_a_resume(make: Build, prompt: PromptConfig) -> None:
    """Its progress is kept, its checkpoints are not; the rest is as if the sweep had not been stopped."""
    parts = make(steps=4, eval_every=1)
    values: dict[str, list[Any]] = {"training.learning_rate": [1e-30, 0.1, 0.05, 1e-20]}
    grid = grid_for(parts, prompt, values, reduction_factor=2)
    made = sweep(parts, grid)
    assert sorted(s.steps for s in made.standings) == [1, 1, 2, 4]
    folders = sorted(parts.run.checkpoints.iterdir())
    assert [sorted(p.name for p in folders[n].iterdir()) for n in (0, 3)] == [["left.json"]] * 2
    again = sweep(parts, grid)
    assert again.standings == made.standings
    assert again.best.name == made.best.name
    for mine, other in zip(again.best.parameters, made.best.parameters, strict=True):
        assert torch.equal(mine, other)


def test_rungs_of_one_step_each_halve_those_that_are_left(
    make: Build, prompt: PromptConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 4 steps, the rungs 1/8 and 1/4 are both after step 1."""
    advanced: list[tuple[int, float]] = []
    monkeypatch.setattr(Sweep, "advance", planted(lambda values, _: values["run.seed"] / 10, advanced))
    parts = make(steps=4)
    grid = grid_for(parts, prompt, {"run.seed": list(range(8))}, reduction_factor=2)
    run = Sweep(grid, lambda _: parts.engine, True, parts.data, parts.evaluation, parts.run)
    run.train(run.add(grid.points()))
    assert [sum(rung == share for _, rung in advanced) for share in (1 / 8, 1 / 4, 1 / 2, 1)] == [8, 4, 2, 1]
    assert [c.left_rung for c in run.contenders] == [None, 1 / 2, 1 / 4, 1 / 4, *[1 / 8] * 4]


def test_one_that_left_does_not_count_at_later_rungs_even_if_its_patience_was_spent(
    make: Build, prompt: PromptConfig
) -> None:
    parts = make(steps=8, patience=2)
    grid = grid_for(parts, prompt, {"run.seed": [0, 1]}, reduction_factor=2)
    run = Sweep(grid, lambda _: parts.engine, True, parts.data, parts.evaluation, parts.run)
    (left, stays) = run.add(grid.points())
    for contender in (left, stays):
        contender.progress.step, contender.progress.validations_without_gain = 3, 2
    run.leave(left, 0.5)
    assert [(c.came(0.5), c.came(1.0)) for c in (left, stays)] == [(True, False), (True, True)]
    (again, _) = Sweep(grid, run.build, True, parts.data, parts.evaluation, parts.run).add(grid.points())
    assert (again.left_at, again.left_rung) == (3, 0.5)
    file = left.folder / "left.json"
    older = json.loads(file.read_text(encoding="utf-8"))
    del older["left_rung"]
    file.write_text(json.dumps(older), encoding="utf-8")
    (again, _) = Sweep(grid, run.build, True, parts.data, parts.evaluation, parts.run).add(grid.points())
    assert (again.left_at, again.left_rung) == (3, None)


def test_a_good_start_is_no_reason_to_stay(prompt: PromptConfig) -> None:
    (point,) = points_of("{training.steps: [9]}", prompt)
    point = replace(point, training=replace(point.training, best_by="accuracy"))

    def after(*accuracies: float) -> Contender:
        found = Contender(0, point, Path())
        found.progress.history = [
            {"step": step, "validation_loss": 1.0, "validation_accuracy": value}
            for step, value in enumerate(accuracies)
        ]
        return found

    assert after(0.79).value(1 / 9) == 0.79, "nothing else is known"
    assert after(0.79, 0.74).value(1 / 9) == 0.74
    assert after(0.72, 0.78).value(1 / 9) == 0.78
    assert after(0.72, 0.78, 0.7).value(1.0) == 0.78


def test_a_candidate_with_its_own_base_model_does_not_keep_it_in_memory(make: Build, prompt: PromptConfig) -> None:
    parts = make(steps=2, eval_every=1)
    grid = grid_for(parts, prompt, {"run.seed": [0, 1]}, reduction_factor=2)
    bases: list[weakref.ref[Any]] = []
    kept = []

    def build(points: Sequence[Point]) -> Engine:
        kept.append(sum(base() is not None for base in bases))
        base = copy.deepcopy(parts.model.get_base_model())
        bases.append(weakref.ref(base))
        tuned = add_soft_prompt(base, parts.engine.tokenizer, points[0].method, seed=points[0].seed)
        return Engine(tuned, parts.engine.tokenizer)

    run_sweep(grid, build, parts.engine.tokenizer, parts.data, parts.evaluation, parts.run, together=False)
    assert kept == [0, 0, 0, 0], "two candidates, the rest of the better one, and its best step"


@pytest.mark.parametrize(("settings", "message"), [
    ({"method": "prefix"}, '^sweep.method: "prefix" .*prefix_tuning'),
    ({"method": "prefix_tuning"}, "^prompt: sweep.method is prefix_tuning, which reads prefix; remove prompt$"),
    ({"method": "full_finetuning"}, "^prompt: sweep.method is full_finetuning, which has no section of its own"),
    ({"reduction_factor": 1}, "^sweep.reduction_factor: expected 2 or more, found 1"),
    ({"first_rung": 1.5}, "^sweep.first_rung: expected a share between 0 and 1, found 1.5"),
    (
        {"grid": {"training.steps": [2, 4]}, "reduction_factor": 2},
        "^sweep.grid: training.steps cannot vary if candidates leave",
    ),
    ({"extend": ["run.sed"]}, r'^sweep.extend: "run.sed" is not in sweep.grid \(did you mean "run.seed"'),
    ({"extensions": -1}, "^sweep.extensions: expected 0 or more, found -1"),
    ({"first_rung": 0.25}, "^sweep.first_rung: needs sweep.reduction_factor, because without it no candidate leaves$"),
])  # fmt: skip
def test_bad_settings_are_one_line(settings: dict[str, Any], message: str) -> None:
    sections = {"prompt": PROMPT, "prefix": PrefixConfig()}
    with pytest.raises(UserError, match=message):
        grid_of(SweepConfig(**({"grid": {"run.seed": [0]}} | settings)), sections, TRAINING, RUN)
