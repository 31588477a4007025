"""Context tuning: it starts as few-shot prompting; in training a row sees neither itself nor dropped positions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers import gradient_of, load_base, make_task, scores, task_config
from softprompts.config.methods import ContextConfig
from softprompts.config.sections import ModelConfig, TrainingConfig
from softprompts.encoding.documents import Document, EncodedTask
from softprompts.encoding.tokenization import encode
from softprompts.engine.build import make_engine
from softprompts.engine.forward import Engine
from softprompts.errors import UserError
from softprompts.evaluation.hard_prompts import draw_shots
from softprompts.methods.soft_prompts.context_tuning import add_context, check_room, demonstrations, training_mask_of
from softprompts.models.loading import input_spec
from softprompts.tasks.task import load_task
from softprompts.training.state import make_candidate
from softprompts.training.step import update

import pytest
import torch
from accelerate import Accelerator
from transformers import DynamicCache, MistralConfig, MistralForCausalLM, OPTConfig, OPTForCausalLM

SEPARATOR = "\n--\n"


def settings(**changes: Any) -> ContextConfig:
    return ContextConfig(**{"demonstrations": 3, "separator": SEPARATOR, "token_dropout": 0.0} | changes)


def few(model: Path, task: Path, config: ContextConfig, seed: int = 0, base: Any = None) -> EncodedTask:
    """Return the tiny task with a few rows of train."""
    own, tokenizer = load_base(model)
    rows = demonstrations(load_task(task_config(task, max_rows={"validation": 8, "test": 8})), config, seed)
    return encode(rows, tokenizer, input_spec(own if base is None else base))


def build(model: Path, task: Path, config: ContextConfig, base: Any = None) -> tuple[Engine, EncodedTask]:
    """Return an engine over a prefix of a few rows, in evaluation mode, and the task."""
    own, tokenizer = load_base(model)
    data = few(model, task, config)
    tuned = add_context(own if base is None else base, tokenizer, data, config)
    return make_engine(tuned, tokenizer, config=ModelConfig(), data=data, say=pytest.fail), data


def in_training(engine: Engine) -> Any:
    """Put the mask of an engine's prefix into training mode, as an update does, and return it."""
    mask = training_mask_of(engine.model)
    assert mask is not None
    return mask.train()


def texts(engine: Engine, data: EncodedTask) -> list[tuple[int, ...]]:
    """Return the tokens of each demonstration, with the separator after it."""
    separator = tuple(engine.tokenizer(SEPARATOR, add_special_tokens=False).input_ids)
    return [e.document.prompt_ids + e.document.target_ids + separator for e in data.train]


def test_the_demonstrations_are_those_of_few_shot_prompting_and_all_of_train(tiny_task: Path) -> None:
    task = load_task(task_config(tiny_task))
    found = demonstrations(task, settings(), seed=4)
    assert found.splits["train"] == draw_shots(task, 3, 4)
    assert found.splits["test"] is task.splits["test"]
    with pytest.raises(UserError, match=r"^context.demonstrations: 41 is not between 0 and the 40 rows of train$"):
        demonstrations(task, settings(demonstrations=41), seed=4)


@pytest.mark.parametrize("packed", [True, False])
def test_before_training_a_row_is_answered_as_behind_the_text(tiny_model: Path, tiny_task: Path, packed: bool) -> None:
    engine, data = build(tiny_model, tiny_task, settings())
    assert engine.packed
    head = tuple(token for text in texts(engine, data) for token in text)
    rows = [e.document for e in data.test]
    plain = Engine(load_base(tiny_model)[0], engine.tokenizer)
    with torch.no_grad():
        found = scores(engine, rows, packed).logits
        expected = scores(plain, [Document(head + d.prompt_ids, d.target_ids) for d in rows], packed=False).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def loss_without(model: Path, head: tuple[int, ...], hidden: list[int], document: Document) -> float:
    """Return the loss of a document after the keys and values of a text, without those at some positions.

    It reads the remaining keys and values only, at the positions that it would have after all of them.
    """
    base = load_base(model)[0]
    full: Any = base(torch.tensor([head]), use_cache=True).past_key_values
    kept = [i for i in range(len(head)) if i not in hidden]
    cache = DynamicCache([(layer.keys[:, :, kept], layer.values[:, :, kept]) for layer in full.layers])
    ids = torch.tensor([document.input_ids])
    positions = torch.arange(len(head), len(head) + ids.shape[1])[None]
    mask = torch.ones(1, len(kept) + ids.shape[1])
    logits = base(input_ids=ids, position_ids=positions, attention_mask=mask, past_key_values=cache).logits[0]
    likelihoods = logits[len(document.prompt_ids) - 1 :].log_softmax(-1)
    return -likelihoods.gather(1, torch.tensor(document.target_ids)[:, None]).mean().item()


@pytest.mark.parametrize("packed", [True, False])
def test_in_training_a_demonstration_does_not_see_itself(tiny_model: Path, tiny_task: Path, packed: bool) -> None:
    engine, data = build(tiny_model, tiny_task, settings())
    rows, found = [e.document for e in data.train], texts(engine, data)
    head = tuple(token for text in found for token in text)
    in_training(engine)
    with torch.no_grad():
        together = scores(engine, rows, packed)
    start = 0
    for index, (document, text) in enumerate(zip(rows, found, strict=True)):
        own = list(range(start, start + len(text)))
        expected = loss_without(tiny_model, head, own, document)
        assert together.nll()[together.document == index].mean().item() == pytest.approx(expected, abs=1e-4)
        assert abs(expected - loss_without(tiny_model, head, [], document)) > 1e-3, "it would show"
        start += len(text)


@pytest.mark.parametrize("config", [settings(token_dropout=0.4), settings(token_dropout=0.4, leave_one_out=False)])
def test_packed_and_stock_agree_on_what_is_hidden(tiny_model: Path, tiny_task: Path, config: ContextConfig) -> None:
    engine, data = build(tiny_model, tiny_task, config)
    # Twice the same row, which no longer shares a text; rows that begin alike; choices that branch off.
    rows = [e.document for e in data.train] * 2 + [c for e in data.test[:2] for c in e.choices]
    in_training(engine)
    both = []
    for packed in (True, False):
        torch.manual_seed(3)
        loss = scores(engine, rows, packed).nll().mean()
        both.append((loss.item(), gradient_of(loss, engine)))
    (loss, gradient), (other, expected) = both
    assert loss == pytest.approx(other, rel=1e-5)
    assert (gradient - expected).norm() <= 1e-4 * expected.norm()
    torch.manual_seed(4)
    assert abs(scores(engine, rows, True).nll().mean().item() - loss) > 1e-4, "another draw hides other positions"


def test_positions_counted_in_a_mask_stay_what_they_are(tiny_model: Path, tiny_task: Path) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "ffn_dim": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    vocabulary = len(load_base(tiny_model)[1])
    base = OPTForCausalLM(OPTConfig(vocab_size=vocabulary, word_embed_proj_dim=32, init_std=0.2, **sizes))
    engine, data = build(tiny_model, tiny_task, settings(), base.eval().requires_grad_(False))
    assert engine.packed
    in_training(engine)
    with torch.no_grad():
        packed, stock = (scores(engine, [e.document for e in data.train], way).logits for way in (True, False))
    torch.testing.assert_close(packed, stock, rtol=1e-4, atol=1e-4)


def test_what_is_hidden_is_a_row_itself_its_double_and_a_share_of_the_rest(tiny_model: Path, tiny_task: Path) -> None:
    base, tokenizer = load_base(tiny_model)
    config = settings(token_dropout=0.25)
    data = few(tiny_model, tiny_task, config)
    first, second = data.train[0], data.train[1]
    mask = training_mask_of(add_context(base, tokenizer, replace(data, train=[first, second, first]), config))
    assert mask is not None
    separator = len(tokenizer(SEPARATOR, add_special_tokens=False).input_ids)
    one, other = (len(e.document.prompt_ids) + len(e.document.target_ids) + separator for e in (first, second))
    torch.manual_seed(0)
    seen = torch.stack([mask([first.document, second.document, data.test[0].document]) for _ in range(400)])
    shares = seen.float().mean(0)  # (documents, P)
    own = torch.tensor([True] * one + [False] * other + [True] * one)
    assert not shares[0, own].any()
    assert not shares[1, ~own].any()
    for share in (shares[0, ~own], shares[1, own], shares[2]):
        assert (share - 0.75).abs().max() < 0.12
    assert not torch.equal(seen[0, 0], seen[0, 2]), "each document draws its own"


def test_an_update_hides_and_evaluation_does_not(tiny_model: Path, tiny_task: Path, tmp_path: Path) -> None:
    engine, data = build(tiny_model, tiny_task, settings(token_dropout=0.3))
    rows = [e.document for e in data.train]
    with torch.no_grad():
        shown = engine(rows).nll().mean().item()
    training = TrainingConfig(steps=9, learning_rate=0.0001)
    losses = []
    for number in range(2):  # the same step twice, from the same values
        candidate = make_candidate(engine, 0, data=data, training=training, seed=0, folder=tmp_path / str(number))
        before = [p.detach().clone() for p in candidate.parameters]
        losses += update(engine, [(candidate, rows)], Accelerator(cpu=True))
        with torch.no_grad():
            moved = max(float((p - b).abs().max()) for p, b in zip(candidate.parameters, before, strict=True))
            for parameter, value in zip(candidate.parameters, before, strict=True):
                parameter.copy_(value)
        assert moved > 0
    assert losses[0] == losses[1] != pytest.approx(shown, abs=1e-3)
    with torch.no_grad():
        assert engine(rows).nll().mean().item() == pytest.approx(shown, abs=1e-6)


def test_more_tokens_than_positions_are_refused(tiny_model: Path, tiny_task: Path) -> None:
    message = (
        r"^context.demonstrations: 20 make \d+ virtual tokens, and the longest row has \d+: more than the model's 256 "
    )
    with pytest.raises(UserError, match=message):
        build(tiny_model, tiny_task, settings(demonstrations=20))


def test_the_longest_choice_needs_positions_too(tiny_model: Path) -> None:
    base, tokenizer = load_base(tiny_model)
    rows = [("the film was", " good")] * 4
    choices = (" good", " good" * 40)
    data = encode(make_task(rows, choices), tokenizer, input_spec(base))
    longest = max(len(d.input_ids) for d in data.train[0].choices)
    base.config.max_position_embeddings = 100 + longest
    check_room(base, data, 100, "context")
    with pytest.raises(UserError, match=rf"^context.demonstrations: 4 make 101 virtual .* longest row has {longest}:"):
        check_room(base, data, 101, "context")


def test_layers_that_keep_fewer_positions_are_refused(tiny_model: Path, tiny_task: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    vocabulary = len(load_base(tiny_model)[1])
    base = MistralForCausalLM(MistralConfig(vocab_size=vocabulary, num_hidden_layers=2, sliding_window=8, **sizes))
    with pytest.raises(UserError, match=r"^context.demonstrations: Need at least \d+ cached tokens"):
        build(tiny_model, tiny_task, settings(), base.eval().requires_grad_(False))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"demonstrations": 0}, r"^context.demonstrations: expected 2 or more, found 0: leave_one_out hides each"),
        ({"demonstrations": 1}, r"set it to false for a single one$"),
        ({"demonstrations": 0, "leave_one_out": False}, r"^context.demonstrations: expected 1 or more, found 0$"),
        ({"token_dropout": 1.0}, r"^context.token_dropout: expected 0 or more and below 1, found 1.0$"),
        ({"token_dropout": -0.1}, r"^context.token_dropout: expected 0 or more and below 1, found -0.1$"),
    ],
)
def test_settings_without_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings(**changes)
