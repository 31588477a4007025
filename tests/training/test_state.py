"""Candidates in shared passes end as they would alone; a failed one, or a stop, does not change the others."""

from __future__ import annotations

import math
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from helpers import TEXT, load_base, losses, make_task, prompt_config, task_config
from softprompts.checkpoints.parameters import trainable_tensors
from softprompts.config.sections import EvaluationConfig, ModelConfig, RunConfig, TrainingConfig
from softprompts.encoding.documents import EncodedTask, with_soft_prompt
from softprompts.encoding.tokenization import encode
from softprompts.engine.build import make_engine
from softprompts.engine.forward import Engine
from softprompts.errors import Interrupted, UserError
from softprompts.methods.soft_prompts.prompt_tuning import add_soft_prompt
from softprompts.models.loading import InputSpec
from softprompts.runs.run import start_run
from softprompts.tasks.task import load_task
from softprompts.training import loop as training_module
from softprompts.training.checks import check_training
from softprompts.training.loop import train, train_side_by_side
from softprompts.training.state import Candidate, make_candidate

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, PrefixTuningConfig, PromptEncoderConfig, get_peft_model
from safetensors.torch import load_file

EVALUATION = EvaluationConfig(batch_size=16, bootstrap_resamples=20)
PROMPTS: list[dict[str, Any]] = [
    {"tokens": 3, "prompt_tuning_init": "SAMPLE_VOCAB"},
    {"tokens": 7, "prompt_tuning_init": "TEXT", "prompt_tuning_init_text": TEXT},
    {"tokens": 1, "prompt_tuning_init": "RANDOM"},
]
# They end at different steps, so that the number of candidates in a forward pass changes.
TRAINING = [
    TrainingConfig(steps=6, learning_rate=0.05, batch_size=8, eval_every=3),
    TrainingConfig(steps=9, learning_rate=0.01, batch_size=3, eval_every=2, schedule="cosine", warmup_steps=2),
    TrainingConfig(steps=4, learning_rate=0.3, batch_size=5, eval_every=4, schedule="constant", optimizer="adafactor"),
]
BROKEN = replace(TRAINING[1], learning_rate=math.inf, eval_every=1)  # its soft prompt is NaN after the first step
LSTM: dict[str, Any] = {"num_virtual_tokens": 4, "encoder_reparameterization_type": "LSTM"}
Train = Callable[..., list[Candidate]]


def tasks(folder: Path, tokenizer: Any) -> list[EncodedTask]:
    """Return three tasks: two of choices, one of them turned round, and an open one of other rows."""
    turned = task_config(folder, choices=[" negative", " positive"])
    rows = [(f"the cast was {word} {n}", " very fine") for n, word in enumerate(("dull", "great", "poor", "a") * 3)]
    made = (load_task(task_config(folder)), make_task(rows), load_task(replace(turned, prompt="a {text} plot")))
    return [encode(task, tokenizer, InputSpec(room=200)) for task in made]


@pytest.fixture(scope="module")
def train_bank(tiny_model: Path, tiny_task: Path) -> Train:
    """Train candidates, by number, side by side in a folder; alone, they go through `train`.

    `spoil` has the steps at which some candidates' gradients are infinite.
    """

    def go(
        folder: Path,
        numbers: Sequence[int] = (0, 1, 2),
        training: Sequence[TrainingConfig] = TRAINING,
        spoil: Mapping[int, int] = MappingProxyType({}),
        prefix: bool = False,
        mode: str = "stock",
        alone: bool = False,
        resume: bool = False,
    ) -> list[Candidate]:
        base, tokenizer = load_base(tiny_model)
        data = tasks(tiny_task, tokenizer)
        bank = []
        for k in numbers:
            if prefix:
                torch.manual_seed(k)
                config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=PROMPTS[k]["tokens"])
                bank.append(get_peft_model(base, config).eval())
            else:
                bank.append(add_soft_prompt(base, tokenizer, prompt_config(tiny_model, **PROMPTS[k]), seed=k))
        run = start_run("test", run=RunConfig(str(folder), numbers[0] if alone else 0, resume, []))
        engine = make_engine(
            bank[0], tokenizer, config=ModelConfig(engine=mode), data=data[numbers[0]], say=run.say, bank=bank[1:]
        )
        if alone:
            (k,) = numbers
            progress = train(engine, data[k], training[k], EVALUATION, run)
            last = make_candidate(engine, 0, data=data[k], training=training[k], seed=k, folder=run.checkpoints)
            assert last.progress.history == progress.history
            last.take_best()
            return [last]
        candidates = [
            make_candidate(
                engine,
                i,
                data=with_soft_prompt(data[k], i),
                training=training[k],
                seed=k,
                folder=run.checkpoints / str(i),
                name=f"candidate {k}",
            )
            for i, k in enumerate(numbers)
        ]
        for k, step in spoil.items():
            candidates[k].parameters[0].register_hook(
                lambda gradient, c=candidates[k], at=step: gradient * math.inf if c.progress.step == at else gradient
            )
        train_side_by_side(engine, candidates, EVALUATION, run)
        for candidate in candidates:
            candidate.take_best()
        return candidates

    return go


@pytest.fixture(scope="module")
def whole(train_bank: Train, tmp_path_factory: pytest.TempPathFactory) -> list[Candidate]:
    """All three, side by side, without an incident."""
    return train_bank(tmp_path_factory.mktemp("whole") / "run")


def assert_same_end(ours: Candidate, theirs: Candidate) -> None:
    """Compare the histories and the final values of two candidates, up to rounding."""
    assert ours.failure is theirs.failure is None
    for key in ("step", "loss", "lr", "validation_loss", "validation_accuracy"):
        mine, other = ([e[key] for e in c.progress.history if key in e] for c in (ours, theirs))
        assert mine == pytest.approx(other, rel=1e-4), key
    for key in ("step", "best_step", "tokens", "validations_without_gain"):
        assert getattr(ours.progress, key) == getattr(theirs.progress, key), key
    tensors, expected = (list(trainable_tensors(c.model).values()) for c in (ours, theirs))
    torch.testing.assert_close(tensors, expected, rtol=1e-3, atol=1e-3)


def assert_identical(ours: Sequence[Candidate], theirs: Sequence[Candidate]) -> None:
    """Compare to the last bit; NaN equals NaN."""
    for mine, other in zip(ours, theirs, strict=True):
        assert bool(mine.failure) == bool(other.failure)
        assert repr(mine.progress.history) == repr(other.progress.history)
        for key in ("step", "best_step", "tokens", "validations_without_gain"):
            assert getattr(mine.progress, key) == getattr(other.progress, key), key
        tensors, expected = (list(trainable_tensors(c.model).values()) for c in (mine, other))
        torch.testing.assert_close(tensors, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("prefix", "mode", "most"),
    [
        (False, "packed", None),
        (False, "packed", 60),
        (False, "stock", 60),
        (True, "packed", 60),
        (True, "stock", None),
    ],
)
def test_together_each_ends_where_it_ends_alone(
    train_bank: Train, prefix: bool, mode: str, most: int | None, tmp_path: Path
) -> None:
    rate = 0.1 if prefix else 1
    training = [replace(t, learning_rate=rate * t.learning_rate, micro_batch_tokens=most) for t in TRAINING]
    together = train_bank(tmp_path / "together", training=training, prefix=prefix, mode=mode)
    assert [c.progress.step for c in together] == [6, 9, 4]
    assert all(c.progress.best_step > 0 for c in together), "each gains"
    for k, candidate in enumerate(together):
        (alone,) = train_bank(tmp_path / str(k), [k], training, prefix=prefix, mode=mode, alone=True)
        assert_same_end(candidate, alone)


def test_twice_the_same_candidate_ends_twice_the_same(train_bank: Train, tmp_path: Path) -> None:
    first, second = train_bank(tmp_path / "run", [0, 0])
    assert_identical([first], [second])
    assert [{d.soft_prompt for d in c.rows()} for c in (first, second)] == [{0}, {1}]


def test_patience_runs_out_for_each_by_itself(train_bank: Train, whole: list[Candidate], tmp_path: Path) -> None:
    still = replace(TRAINING[0], learning_rate=1e-30, eval_every=1, patience=2)  # float32 does not move
    together = train_bank(tmp_path / "run", training=[still, *TRAINING[1:]])
    assert [c.progress.step for c in together] == [2, 9, 4]
    assert_same_end(together[1], whole[1])


@pytest.mark.parametrize("mode", ["packed", "stock"])
def test_one_that_breaks_is_given_up_and_the_others_do_not_notice(
    train_bank: Train, whole: list[Candidate], mode: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first, broken, last = train_bank(tmp_path / "run", training=[TRAINING[0], BROKEN, TRAINING[2]], mode=mode)
    assert broken.failure == (
        f"the loss or its gradient became nan at step 2; the state of step 1 is kept in {broken.folder}. "
        "Lower training.learning_rate (inf)"
    )
    assert (broken.progress.step, len(losses(broken.progress.history))) == (1, 1)
    assert f"candidate 1  given up: {broken.failure}" in "".join(capfd.readouterr())
    assert_same_end(first, whole[0])
    assert_same_end(last, whole[2])


def test_one_whose_gradient_breaks_does_not_move(train_bank: Train, whole: list[Candidate], tmp_path: Path) -> None:
    first, broken, last = train_bank(tmp_path / "run", spoil={1: 4})
    assert broken.failure
    assert "at step 5; the state of step 4 is kept" in broken.failure
    assert losses(broken.progress.history) == losses(whole[1].progress.history)[:4]
    saved = load_file(broken.folder / "step-000004" / "trainable.safetensors")
    torch.testing.assert_close(trainable_tensors(broken.model), saved, rtol=0, atol=0)
    assert_identical([first, last], [whole[0], whole[2]])


def test_if_all_break_each_says_why(train_bank: Train, tmp_path: Path) -> None:
    ended = train_bank(tmp_path / "run", training=[BROKEN, BROKEN, TRAINING[2]], spoil={2: 3})
    assert all(candidate.failure for candidate in ended)
    assert re.match(r"the loss or its gradient became \w+ at step 4; .* kept in .*/2\. Lower", str(ended[2].failure))


def test_one_that_has_finished_counts_where_the_rest_breaks(train_bank: Train, tmp_path: Path) -> None:
    first, broken = train_bank(tmp_path / "run", [0, 1], [replace(TRAINING[0], steps=1), BROKEN])
    assert (first.failure, first.progress.step) == (None, 1)
    assert broken.failure


def stop(train_bank: Train, step: int, folder: Path, spoil: Mapping[int, int]) -> None:
    """Send SIGTERM to a bank during an update."""
    original, calls = training_module.update, []

    def interrupted(*arguments: Any) -> list[float]:
        calls.append(0)
        if len(calls) == step:
            signal.raise_signal(signal.SIGTERM)
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_module, "update", interrupted)
        with pytest.raises(Interrupted) as stopped:
            train_bank(folder, spoil=spoil)
    assert (stopped.value.signal, len(calls)) == (signal.SIGTERM, step)


# `lost` is as if the process had been killed before it had saved this one.
@pytest.mark.parametrize(("step", "lost"), [(1, None), (4, 0), (4, 1), (6, 2), (9, None)])
def test_a_stopped_bank_goes_on_as_if_nothing_had_been(
    train_bank: Train, whole: list[Candidate], step: int, lost: int | None, tmp_path: Path
) -> None:
    stop(train_bank, step, tmp_path / "run", {})
    if lost is not None:
        max((tmp_path / "run" / "checkpoints" / str(lost)).glob("step-*")).rename(tmp_path / "lost")
    assert_identical(train_bank(tmp_path / "run", resume=True), whole)


def test_one_given_up_before_a_stop_is_given_up_again(
    train_bank: Train, whole: list[Candidate], tmp_path: Path
) -> None:
    stop(train_bank, 6, tmp_path / "run", {1: 4})
    first, broken, last = train_bank(tmp_path / "run", spoil={1: 4}, resume=True)
    assert broken.failure
    assert losses(broken.progress.history) == losses(whole[1].progress.history)[:4]
    assert_identical([first, last], [whole[0], whole[2]])


@pytest.mark.parametrize("saves", [1, 5, 8])
def test_a_bank_killed_while_it_saves_goes_on_as_if_nothing_had_been(
    train_bank: Train, whole: list[Candidate], saves: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = Candidate.save, []

    def killed(candidate: Candidate, write: bool = True) -> None:
        calls.append(0)
        if len(calls) > saves:
            raise RuntimeError("killed")
        original(candidate, write)

    monkeypatch.setattr(Candidate, "save", killed)
    with pytest.raises(RuntimeError, match="killed"):
        train_bank(tmp_path / "run")
    monkeypatch.undo()
    assert_identical(train_bank(tmp_path / "run", resume=True), whole)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "training.steps: expected a number above 0, found 0"),
        ({"batch_size": 0}, "training.batch_size: expected a number above 0, found 0"),
        (
            {"batch_size": 10**12},
            "training.batch_size: 1000000000000 is more than 100 times the 40 rows of train: a larger .*",
        ),
        ({"batch_size": 4001}, "training.batch_size: 4001 is more than 100 times the 40 rows of train: .*"),
        ({"eval_every": -1}, "training.eval_every: expected a number above 0, found -1"),
        ({"micro_batch_tokens": 0}, "training.micro_batch_tokens: expected a number above 0, found 0"),
        ({"eval_rows": 0}, "training.eval_rows: expected a number above 0, found 0"),
        ({"on_nan": 0.0}, "training.on_nan: expected stop, or a factor above 0 and up to 1; found 0.0"),
        ({"on_nan": 2.0}, "training.on_nan: expected stop, or a factor above 0 and up to 1; found 2.0"),
        ({"patience": 0}, "training.patience: expected a number above 0, found 0"),
        ({"max_grad_norm": 0.0}, "training.max_grad_norm: expected a number above 0, found 0.0"),
        ({"learning_rate": 0.0}, "training.learning_rate: expected a number above 0, found 0.0"),
        ({"learning_rate": math.nan}, "training.learning_rate: expected a number above 0, found nan"),
        ({"weight_decay": -0.1}, "training.weight_decay: expected 0 or more, found -0.1"),
        ({"warmup_steps": -1}, "training.warmup_steps: expected 0 or more, found -1"),
        (
            {"steps": 5, "warmup_steps": 6},
            "training.warmup_steps: expected at most training.steps \\(5\\), found 6",
        ),
        ({"best_by": "acuracy"}, 'training.best_by: "acuracy" \\(did you mean "accuracy"\\?\\)'),
    ],
)
def test_settings_without_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        check_training(TrainingConfig(**settings), Accelerator(cpu=True), ["accuracy"], 40)


def test_a_batch_that_the_processes_cannot_share_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator = Accelerator(cpu=True)
    monkeypatch.setattr(type(accelerator), "num_processes", property(lambda _: 3))
    with pytest.raises(UserError, match=r"^training.batch_size: 8 rows cannot be shared by 3 processes$"):
        check_training(TrainingConfig(batch_size=8), accelerator, ["accuracy"], 40)


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (LoraConfig(target_modules=["q_proj"], lora_dropout=0.1), ["q_proj.lora_dropout.default"] * 2),
        (PromptEncoderConfig(**LSTM, encoder_dropout=0.1), ["default.lstm_head"]),
        (PromptEncoderConfig(**LSTM), ["default.lstm_head"]),  # cuDNN has no backward pass of it in evaluation
    ],
)
def test_only_what_a_method_adds_drops_values(tiny_model: Path, tmp_path: Path, config: Any, names: list[str]) -> None:
    base, tokenizer = load_base(tiny_model)
    base.get_input_embeddings().register_module("own", torch.nn.Dropout(0.5))  # the base model's stays off
    config.task_type = "CAUSAL_LM"
    engine = Engine(get_peft_model(base, config), tokenizer)
    data = encode(make_task([("the film", " good")]), tokenizer)
    candidate = make_candidate(engine, 0, data=data, training=TrainingConfig(), seed=0, folder=tmp_path)
    found = [name for name, module in candidate.model.named_modules() if module in candidate.dropouts]
    assert [name.endswith(end) for name, end in zip(found, names, strict=True)] == [True] * len(names)
