"""Multitask prompt tuning: rows with their tasks' prompts, one shared prompt, and the engine's view of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers import CPU, TEXT, load_base, loss_and_gradient, make_task, scores
from softprompts.config.methods import MultitaskConfig
from softprompts.config.sections import ModelConfig, TrainingConfig
from softprompts.encoding.documents import Document, EncodedTask
from softprompts.encoding.tokenization import encode
from softprompts.engine.build import disagreement, make_engine
from softprompts.engine.forward import Engine
from softprompts.engine.generation import generate
from softprompts.errors import UserError
from softprompts.methods.attach import initial_values
from softprompts.methods.soft_prompts.multitask_prompt_tuning import (
    add_multitask_prompt,
    by_task,
    factors_alone,
    training_of_factors,
)
from softprompts.tasks.task import Row
from softprompts.training.state import make_candidate
from softprompts.training.step import update

import pytest
import torch
from accelerate import Accelerator
from peft import MultitaskPromptTuningConfig, PeftModel, get_peft_model
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

TASKS = ["books", "films", "games"]
SETTINGS = MultitaskConfig("domain", num_virtual_tokens=5, prompt_tuning_init_text=TEXT)
SHORT, MIDDLE, LONG = (
    Document((5, 6), (7,)),
    Document(tuple(range(20, 33)), (40, 41, 42)),
    Document(tuple(range(100, 140)), (50, 51)),
)
# One text in several tasks, choices of one prompt, and tasks out of order.
MIXED = [
    replace(LONG, soft_prompt=2),
    replace(SHORT, soft_prompt=0),
    replace(MIDDLE, soft_prompt=1),
    replace(MIDDLE, soft_prompt=1, target_ids=(8, 9)),
    replace(MIDDLE, soft_prompt=0),
]

Tuned = tuple[PeftModel, PreTrainedTokenizerBase]


def tune(folder: Path, tasks: Sequence[str] = TASKS, seed: int | None = 0, **changes: Any) -> Tuned:
    base, tokenizer = load_base(folder)
    return add_multitask_prompt(base, tokenizer, replace(SETTINGS, **changes), tasks=tasks, seed=seed), tokenizer


@pytest.fixture(scope="module")
def tuned(tiny_model: Path) -> Tuned:
    """Three tasks whose prompts differ by far more than their start does."""
    model, tokenizer = tune(tiny_model)
    with torch.no_grad():
        encoder = model.prompt_encoder["default"]
        torch.manual_seed(1)
        encoder.prefix_task_cols.normal_(1, 0.5)
        encoder.prefix_task_rows.normal_(1, 0.5)
    return model, tokenizer


def prompts_of(model: Any) -> torch.Tensor:
    """Return the prompt of each task, (T, P, H), computed by hand."""
    encoder = model.prompt_encoder["default"]
    return encoder.embedding.weight * (encoder.prefix_task_cols @ encoder.prefix_task_rows)


def data_of(tokenizer: PreTrainedTokenizerBase, domains: Sequence[str], **elsewhere: Sequence[str]) -> EncodedTask:
    """Return an encoded task whose rows have these domains, in `elsewhere` by split."""

    def rows(split: str, values: Sequence[str]) -> list[Row]:
        return [
            Row(f"{split} row {n}", f"the film was {n}", " good", {"text": "", "domain": value})
            for n, value in enumerate(values, start=1)
        ]

    splits = {name: rows(name, elsewhere.get(name, domains)) for name in ("train", "validation", "test")}
    return encode(replace(make_task([("a", " good")], choices=(" good", " bad")), splits=splits), tokenizer)


def test_every_row_goes_behind_the_prompt_of_its_task(tuned: Tuned) -> None:
    data = data_of(tuned[1], ["films", "books", "games", "books"], test=["games", "films"])
    moved, names = by_task(data, "domain")
    assert names == TASKS
    for split, expected in ((moved.train, [1, 0, 2, 0]), (moved.validation, [1, 0, 2, 0]), (moved.test, [2, 1])):
        assert [e.document.soft_prompt for e in split] == expected
        assert [[d.soft_prompt for d in e.choices] for e in split] == [[k, k] for k in expected]
    assert {e.document.soft_prompt for e in data.train} == {0}


@pytest.mark.parametrize(
    ("domains", "column", "message"),
    [
        (["a", "b"], "domian", r'^prompt\.column: no column "domian"; columns are: text, domain$'),
        (["a", "a"], "domain", r'^prompt\.column: all rows of train have domain "a"; expected two or more tasks$'),
        (["a", "b/c"], "domain", r'^prompt\.column: domain "b/c" cannot be the name of its adapter.s folder'),
        (
            ["a", "x" * 300],
            "domain",
            r'^prompt\.column: domain "x{96} \.\.\." is too long .*: 300 bytes, at most 143$',
        ),
        (["a", "電" * 60], "domain", r"is too long for the name of a folder: 180 bytes, at most 143$"),
        (["a", "."], "domain", r'domain "\." cannot be the name of its adapter.s folder'),
        (["a", "b."], "domain", r'domain "b\." cannot be the name of its adapter.s folder'),
        (["a", "b "], "domain", r'domain "b " cannot be the name of its adapter.s folder'),
        (["a", "a\nb"], "domain", r'domain "a\\nb" cannot be the name of its adapter.s folder'),
        (["a", "con"], "domain", r'domain "con" cannot be the name of a folder on Windows; rename it$'),
        (["a", "LPT1.x"], "domain", r'domain "LPT1\.x" cannot be the name of a folder on Windows'),
        (["Films", "films"], "domain", r'domain "films" and "Films" would share a folder if case is ignored'),
        (["caf\u00e9", "cafe\u0301"], "domain", r"would share a folder"),
        (["a", ""], "domain", r'domain "" cannot be the name of its adapter.s folder'),
        (["a", None], "domain", r'^train row 2: prompt\.column: "domain" is null'),
        (["a", float("nan")], "domain", r'^train row 2: prompt\.column: "domain" is nan'),
        (["a", ".."], "domain", r'^prompt\.column: domain "\.\." cannot be the name of its adapter.s folder'),
    ],
)
def test_columns_that_name_no_tasks(tuned: Tuned, domains: list[str], column: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        by_task(data_of(tuned[1], domains), column)


def test_b15_names_of_any_script_name_folders(tuned: Tuned) -> None:
    names = ["हिन्दी", "電影", "R-B", "a.b c", "x" * 143, "_1", "5"]
    assert by_task(data_of(tuned[1], names), "domain")[1] == sorted(names)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_task_that_train_does_not_have_is_refused_with_its_row(tuned: Tuned, split: str) -> None:
    data = data_of(tuned[1], ["films", "books"], **{split: ["films", "music"]})
    with pytest.raises(UserError, match=rf'^{split} row 2: train has no row with domain "music", only books, films$'):
        by_task(data, "domain")


@pytest.mark.parametrize("ranks", [1, 3])
def test_each_task_starts_as_the_shared_prompt_does(tiny_model: Path, ranks: int) -> None:
    model, tokenizer = tune(tiny_model, num_ranks=ranks)
    encoder = model.prompt_encoder["default"]
    assert encoder.prefix_task_cols.shape == (3, 5, ranks)
    assert encoder.prefix_task_rows.shape == (3, ranks, 32)
    shared = initial_values(model.get_base_model(), tokenizer, 5, start="TEXT", text=TEXT)
    assert shared is not None
    assert torch.equal(encoder.embedding.weight, shared)
    # PEFT draws both factors from N(0, 0.02): of their product, the sum over the ranks, that leaves so much noise.
    factor = encoder.prefix_task_cols @ encoder.prefix_task_rows
    assert (factor - 1).abs().max() < 5 * 0.02 * (ranks**0.5 + 1)
    assert (prompts_of(model) - shared).abs().max() <= (factor - 1).abs().max() * shared.abs().max()
    assert not torch.equal(prompts_of(model)[0], prompts_of(model)[1]), "the noise tells the tasks apart"


def test_peft_by_itself_starts_every_task_next_to_zero(tiny_model: Path) -> None:
    # Once PEFT starts elsewhere, the ones that are added to its factors have to go.
    config = MultitaskPromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5, num_tasks=3)
    encoder: Any = get_peft_model(load_base(tiny_model)[0], config).prompt_encoder["default"]
    assert (encoder.prefix_task_cols @ encoder.prefix_task_rows).abs().max() < 0.05


def test_the_seed_decides(tiny_model: Path) -> None:
    def draw(seed: int, state: int) -> torch.Tensor:
        torch.manual_seed(state)
        return prompts_of(tune(tiny_model, seed=seed, prompt_tuning_init="RANDOM")[0])

    assert torch.equal(draw(1, 0), draw(1, 2))
    assert not torch.equal(draw(1, 0), draw(2, 0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_ranks": 0}, r"^prompt\.num_ranks: expected a number above 0, found 0$"),
        ({"factor_steps": -1}, r"^prompt\.factor_steps: expected 0 or more, found -1$"),
        ({"num_virtual_tokens": 0}, r"^prompt\.num_virtual_tokens: expected a number above 0, found 0$"),
        ({"prompt_tuning_init_text": ""}, r"^prompt\.prompt_tuning_init_text: TEXT requires a text"),
    ],
)
def test_settings_without_sense_are_refused(tiny_model: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tune(tiny_model, **changes)


def test_the_stage_of_the_factors_has_the_settings_of_training_and_its_own_length() -> None:
    training = TrainingConfig(steps=8, warmup_steps=3, learning_rate=0.1)
    assert training_of_factors(replace(SETTINGS, factor_steps=4), training) == replace(training, steps=4)
    assert training_of_factors(SETTINGS, training) is None


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_stage_that_is_no_longer_than_its_warm_up_is_refused(steps: int) -> None:
    training = TrainingConfig(steps=8, warmup_steps=3)
    message = rf"^prompt\.factor_steps: expected more than training\.warmup_steps \(3\), found {steps}; 0 leaves this"
    with pytest.raises(UserError, match=message):
        training_of_factors(replace(SETTINGS, factor_steps=steps), training)


def test_behind_the_shared_prompt_only_the_factors_train(tiny_model: Path) -> None:
    model, tokenizer = tune(tiny_model)
    with factors_alone(model):
        names = {name.rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad}
        assert names == {"prefix_task_cols", "prefix_task_rows"}
        engine = Engine(model, tokenizer)
        gradient = loss_and_gradient(engine, MIXED, packed=True)[1]
        assert gradient.any()
        assert disagreement(engine, MIXED) is None
    assert sum(p.requires_grad for p in model.parameters()) == 3


def test_the_engine_has_a_soft_prompt_for_each_task(tuned: Tuned) -> None:
    model, tokenizer = tuned
    engine = Engine(model, tokenizer)
    for task in range(3):
        prompt = engine.soft_prompt(task)
        assert isinstance(prompt, torch.Tensor)
        torch.testing.assert_close(prompt, prompts_of(model)[task])
        assert torch.equal(prompt, model.get_prompt(1, torch.tensor([task]))[0])


def test_behind_different_tasks_packed_and_stock_give_what_peft_gives(tuned: Tuned) -> None:
    model, tokenizer = tuned
    engine = Engine(model, tokenizer)
    (stock_loss, stock_gradient), (loss, gradient) = (loss_and_gradient(engine, MIXED, p) for p in (False, True))
    assert loss == pytest.approx(stock_loss, rel=1e-5)
    torch.testing.assert_close(gradient, stock_gradient, rtol=1e-3, atol=1e-5)
    for packed in (False, True):
        found = scores(engine, MIXED, packed)
        assert found.targets.tolist() == [t for d in MIXED for t in d.target_ids]
        for index, d in enumerate(MIXED):
            ids, task = torch.tensor([d.input_ids]), torch.tensor([d.soft_prompt])
            expected = model(input_ids=ids, task_ids=task).logits[0, -len(d.target_ids) :]
            mine = found.logits[found.document == index]
            torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


def test_tasks_stand_in_a_bank_behind_those_of_the_models_before(tuned: Tuned, tiny_model: Path) -> None:
    model, tokenizer = tuned
    other = add_multitask_prompt(model.get_base_model(), tokenizer, SETTINGS, tasks=TASKS[:2], seed=9)
    engine = Engine(model, tokenizer, bank=[other])
    assert engine.owners == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    documents = [replace(MIDDLE, soft_prompt=k) for k in (4, 1, 3)]
    assert disagreement(engine, documents) is None
    alone = scores(Engine(other, tokenizer), [replace(MIDDLE, soft_prompt=1)], packed=False).logits
    torch.testing.assert_close(scores(engine, documents, True).logits[:3], alone, rtol=1e-4, atol=1e-4)


def test_each_row_is_continued_behind_its_task(tuned: Tuned) -> None:
    model, tokenizer = tuned
    engine = Engine(model, tokenizer)
    prompts, tasks = [SHORT.prompt_ids, MIDDLE.prompt_ids, MIDDLE.prompt_ids], [2, 0, 1]
    alone = [generate(engine, [p], 6, soft_prompts=[k])[0] for p, k in zip(prompts, tasks, strict=True)]
    assert alone[1] != alone[2], "the task makes a difference"
    assert generate(engine, prompts, 6, soft_prompts=tasks) == alone


@pytest.mark.parametrize("packed", [False, True])
def test_without_its_adapter_a_model_of_several_tasks_is_its_base(tuned: Tuned, packed: bool) -> None:
    model, tokenizer = tuned
    engine = Engine(model, tokenizer)
    expected = scores(Engine(model.get_base_model(), tokenizer), [MIDDLE], packed=False).logits
    with model.disable_adapter():
        found = scores(engine, [replace(MIDDLE, soft_prompt=1)], packed).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("most", [None, 30])
def test_the_loss_of_an_update_is_the_mean_over_the_targets_of_all_tasks(
    tiny_model: Path, tmp_path: Path, most: int | None
) -> None:
    model, tokenizer = tune(tiny_model)
    data, _ = by_task(data_of(tokenizer, TASKS), "domain")
    engine = make_engine(model, tokenizer, config=ModelConfig(), data=data, say=print)
    assert engine.packed
    assert engine.device == CPU
    expected = scores(engine, MIXED, packed=False).nll()
    training = TrainingConfig(steps=2, micro_batch_tokens=most)
    candidate = make_candidate(engine, 0, data=data, training=training, seed=0, folder=tmp_path)
    before = prompts_of(model).detach().clone()
    (loss,) = update(engine, [(candidate, MIXED)], Accelerator(cpu=True))
    assert len(expected) == sum(len(d.target_ids) for d in MIXED)
    assert loss == pytest.approx(expected.mean().item(), rel=1e-4)
    assert all((prompts_of(model) - before).abs().amax((1, 2)) > 0), "every task's prompt moves"
