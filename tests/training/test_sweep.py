"""A sweep's grid becomes candidates, or one line that says why not; validation alone chooses among them."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers import Build, Parts, prompt_config
from softprompts.config.grid import Point, points
from softprompts.config.methods import PromptConfig, SweepConfig
from softprompts.config.sections import RunConfig, TrainingConfig
from softprompts.engine.forward import Engine
from softprompts.errors import UserError
from softprompts.methods.prompt_tuning import add_soft_prompt
from softprompts.training import loop as training_module
from softprompts.training.checkpoints import trainable_tensors
from softprompts.training.sweep import run_sweep

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
    """Return the points of a grid as it stands in a YAML file."""
    return points(SweepConfig(yaml.safe_load(grid)), prompt, TRAINING, RUN)


def test_every_combination_is_a_point_and_the_last_key_varies_fastest() -> None:
    made = points_of("{run.seed: [3, 0], prompt.num_virtual_tokens: [1, 8], training.learning_rate: [0.5, 0.25, 1]}")
    assert [(p.seed, p.prompt.num_virtual_tokens, p.training.learning_rate) for p in made] == [
        (seed, tokens, rate) for seed in (3, 0) for tokens in (1, 8) for rate in (0.5, 0.25, 1.0)
    ]
    assert made[1].values == {"run.seed": 3, "prompt.num_virtual_tokens": 1, "training.learning_rate": 0.25}
    assert list(made[1].values) == ["run.seed", "prompt.num_virtual_tokens", "training.learning_rate"]
    assert made[1].name == "seed=3 num_virtual_tokens=1 learning_rate=0.25"
    assert len({p.name for p in made}) == 12


def test_what_the_grid_does_not_name_stays() -> None:
    (point,) = points_of("{training.steps: [9]}")
    assert point.training == replace(TRAINING, steps=9)
    assert (point.prompt, point.seed) == (PROMPT, 5)


def test_the_settings_handed_in_stay_as_they_are() -> None:
    sweep = SweepConfig({"training.steps": ["9", 8], "prompt.num_virtual_tokens": [2], "run.seed": [1]})
    handed = (sweep, PROMPT, TRAINING, RUN)
    before = copy.deepcopy(handed)
    made = points(*handed)
    assert handed == before
    made[0].training.steps = made[0].prompt.num_virtual_tokens = 77
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
        given = point.seed if section == "run" else getattr(getattr(point, section), name)
        assert (given, point.values[key]) == (value, value)
        assert isinstance(given, type(value))
        assert point.name == f"{name}={value}"


def test_keys_that_belong_together_may_vary_together() -> None:
    """Whatever the order of the keys."""
    random = PromptConfig(num_virtual_tokens=4, prompt_tuning_init="RANDOM")
    keys = ["prompt.prompt_tuning_init: [TEXT]", "prompt.prompt_tuning_init_text: [good, bad]"]
    for grid in (", ".join(keys), ", ".join(reversed(keys))):
        made = points_of(f"{{{grid}}}", random)
        assert [(p.prompt.prompt_tuning_init, p.prompt.prompt_tuning_init_text) for p in made] == [
            ("TEXT", "good"),
            ("TEXT", "bad"),
        ]


def test_ways_to_start_may_vary() -> None:
    prompt = PromptConfig(num_virtual_tokens=4)
    made = points_of("{prompt.init_from: [null, uniform, labels]}", prompt)
    assert [type(p.prompt) for p in made] == [PromptConfig] * 3
    assert [getattr(p.prompt, "init_from") for p in made] == [None, "uniform", "labels"]  # noqa: B009
    with pytest.raises(
        UserError, match=r'^sweep.grid: prompt.init_from: expected .*, found labls \(did you mean "labels"'
    ):
        points_of("{prompt.init_from: [labls]}", prompt)
    with pytest.raises(UserError, match=r"^prompt.init_from: uniform not with prompt_tuning_init: TEXT"):
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


def sweep(parts: Parts, grid: list[Point]) -> Engine:
    """Return an engine over a soft prompt for each point, on the base model of `parts`."""
    bank = [add_soft_prompt(parts.model.get_base_model(), parts.engine.tokenizer, p.prompt, seed=p.seed) for p in grid]
    return Engine(bank[0], parts.engine.tokenizer, bank=bank[1:])


@pytest.fixture
def prompt(tiny_model: Path) -> PromptConfig:
    return prompt_config(tiny_model, 3, prompt_tuning_init="SAMPLE_VOCAB")


def test_the_best_on_validation_is_returned_at_its_best_step(make: Build, prompt: PromptConfig) -> None:
    parts = make(steps=4, eval_every=2)
    rates = SweepConfig({"training.learning_rate": [1e-30, 0.1, 1e300, 0.01]})
    grid = points(rates, prompt, parts.training, RUN)
    best, standings = run_sweep(sweep(parts, grid), grid, parts.data, parts.evaluation, parts.run)
    assert [s.values for s in standings] == [p.values for p in grid]
    assert [s.failure is None for s in standings] == [True, True, False, True]
    assert standings[2].value is None
    values = [s.value for s in standings if s.value is not None]
    assert best.name == "learning_rate=0.1", "neither the first nor the last"
    assert best.progress.best_value == max(values)
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
    grid = points(SweepConfig({"run.seed": [4, 1, 0, 2, 3]}), prompt, parts.training, RUN)
    engine = sweep(parts, grid)
    values = [next(model.prompt_encoder.parameters()).detach().clone() for model in engine.bank]
    best, standings = run_sweep(engine, grid, parts.data, parts.evaluation, parts.run)
    assert {(s.value, s.best_step) for s in standings} == {(0.5, 0)}
    first = [s.validations[0]["validation_loss"] for s in standings]
    index = first.index(min(first))
    assert best.seed == grid[index].seed
    assert torch.equal(best.parameters[0], values[index]), "taken back to its best step, the first"
    assert best.seed not in (4, 3), "this test needs seeds of which neither the first nor the last is the best"


def test_a_seed_decides_the_initial_values_and_the_rows(make: Build, prompt: PromptConfig) -> None:
    parts = make(steps=1, eval_every=1)
    seeds = SweepConfig({"run.seed": [1, 2], "training.learning_rate": [0.1, 0.2]})
    drawn = sweep(parts, points(seeds, prompt, parts.training, RUN))
    values = [next(model.prompt_encoder.parameters()) for model in drawn.bank]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])
    grid = points(seeds, replace(prompt, **TEXT_START), parts.training, RUN)  # all start from the same values
    _, standings = run_sweep(sweep(parts, grid), grid, parts.data, parts.evaluation, parts.run)
    first, second = ([s.validations[step]["validation_loss"] for s in standings] for step in (0, 1))
    assert first == pytest.approx([first[0]] * 4, rel=1e-6)
    assert len({round(loss, 4) for loss in second}) == 4, "the rate and the rows make the difference"


def test_a_value_without_sense_is_refused_before_anything_trains(make: Build, prompt: PromptConfig) -> None:
    parts = make()
    made = points(SweepConfig({"training.steps": [2, 0]}), prompt, parts.training, RUN)
    with pytest.raises(UserError, match=r"^training.steps: expected a number above 0, found 0$"):
        run_sweep(sweep(parts, made), made, parts.data, parts.evaluation, parts.run)
    assert not parts.run.checkpoints.exists()


def test_more_than_one_process_is_refused(make: Build, prompt: PromptConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = make(batch_size=8)
    grid = points(SweepConfig({"run.seed": [0, 1]}), prompt, parts.training, RUN)
    engine = sweep(parts, grid)
    monkeypatch.setattr(type(parts.run.accelerator), "num_processes", property(lambda _: 2))
    with pytest.raises(UserError, match=r"^a sweep trains .* in one process; launch it with --num_processes 1$"):
        run_sweep(engine, grid, parts.data, parts.evaluation, parts.run)
