"""CPT: the embeddings of a few rows change within a bound, but targets do not; saved as prompt tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers import load_base, scores, task_config
from softprompts.adapters.saving import write_adapter
from softprompts.config.methods import CPTConfig
from softprompts.config.sections import ModelConfig, TrainingConfig
from softprompts.encoding.documents import EncodedTask
from softprompts.encoding.tokenization import encode
from softprompts.engine.build import make_engine
from softprompts.engine.forward import Engine
from softprompts.errors import UserError
from softprompts.methods.soft_prompts.context_tuning import demonstrations
from softprompts.methods.soft_prompts.cpt import add_cpt
from softprompts.models.loading import input_spec
from softprompts.tasks.task import load_task
from softprompts.training.state import make_candidate
from softprompts.training.step import update

import peft
import pytest
import torch
from accelerate import Accelerator
from peft import PeftModel, PromptTuningConfig

SEPARATOR = "\n--\n"


def build(model: Path, task: Path, **settings: Any) -> tuple[Engine, EncodedTask]:
    """Return an engine over the tiny model with the embeddings of a few rows, and the task."""
    config = CPTConfig(**{"demonstrations": 3, "separator": SEPARATOR} | settings)
    base, tokenizer = load_base(model)
    rows = demonstrations(load_task(task_config(task, max_rows={"validation": 8, "test": 8})), config, seed=0)
    data = encode(rows, tokenizer, input_spec(base))
    tuned = add_cpt(base, tokenizer, data, config)
    return make_engine(tuned, tokenizer, config=ModelConfig(), data=data, say=pytest.fail), data


def test_a_separator_without_an_embedding_is_refused(tiny_model: Path, tiny_task: Path) -> None:
    base, tokenizer = load_base(tiny_model)
    config = CPTConfig(demonstrations=2, separator="zzz")
    rows = demonstrations(load_task(task_config(tiny_task, max_rows={"validation": 8, "test": 8})), config, seed=0)
    data = encode(rows, tokenizer, input_spec(base))
    tokenizer.add_tokens(["zzz"])
    with pytest.raises(UserError, match=r"^cpt.separator: token \d+ of the initial text is beyond the \d+ embeddings"):
        add_cpt(base, tokenizer, data, config)


def prompt(engine: Engine) -> torch.Tensor:
    found = engine.soft_prompt(0)
    assert isinstance(found, torch.Tensor)
    return found.detach().clone()


def tokens(engine: Engine, data: EncodedTask) -> list[tuple[str, int]]:
    """Return the tokens of the demonstrations, each with the part that it belongs to."""
    separator = engine.tokenizer(SEPARATOR, add_special_tokens=False).input_ids
    return [
        (what, token)
        for document in (example.document for example in data.train)
        for what, ids in (("prompt", document.prompt_ids), ("target", document.target_ids), ("separator", separator))
        for token in ids
    ]


def train(engine: Engine, data: EncodedTask, folder: Path, updates: int = 3) -> list[float]:
    """Train on all demonstrations at once, and return the loss of each update."""
    training = TrainingConfig(steps=9, learning_rate=0.5)
    candidate = make_candidate(engine, 0, data=data, training=training, seed=0, folder=folder)
    rows = [e.document for e in data.train]
    return [update(engine, [(candidate, rows)], Accelerator(cpu=True))[0] for _ in range(updates)]


def test_it_begins_as_the_embeddings_of_the_demonstrations(tiny_model: Path, tiny_task: Path) -> None:
    engine, data = build(tiny_model, tiny_task)
    assert engine.packed
    weight = engine.model.get_input_embeddings().weight
    assert torch.equal(prompt(engine), weight[torch.tensor([token for _, token in tokens(engine, data)])])


def test_an_embedding_moves_within_its_bound_and_that_of_a_target_not_at_all(
    tiny_model: Path, tiny_task: Path, tmp_path: Path
) -> None:
    engine, data = build(tiny_model, tiny_task, opt_projection_epsilon=2.0, opt_projection_format_epsilon=1.0)
    before = prompt(engine)
    train(engine, data, tmp_path)
    moved = (prompt(engine) - before).norm(dim=1)
    kinds = [what for what, _ in tokens(engine, data)]
    scale = (32 / 2048) ** 0.5  # hidden size relative to that of the bounds
    for what, bound in (("prompt", 2.0), ("separator", 1.0)):
        own = torch.stack([norm for norm, kind in zip(moved, kinds, strict=True) if kind == what])
        assert (own <= bound * scale * 1.0001).all()
        assert (own > bound * scale * 0.99).any(), "steps so large reach it"
    assert not any(norm for norm, kind in zip(moved.tolist(), kinds, strict=True) if kind == "target")


def test_packed_trains_as_stock_peft_does(tiny_model: Path, tiny_task: Path, tmp_path: Path) -> None:
    curves = []
    for packed in (True, False):
        engine, data = build(tiny_model, tiny_task, opt_projection_epsilon=2.0)
        engine.packed = packed
        curves.append(train(engine, data, tmp_path / str(packed)))
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)
    assert curves[0][2] < curves[0][0], "they learn"


def test_the_bounds_are_those_of_stock_peft(tiny_model: Path, tiny_task: Path, tmp_path: Path) -> None:
    """PEFT's config, made by hand from the same tokens, after the same changes gives the same soft prompt."""
    engine, data = build(tiny_model, tiny_task, opt_projection_epsilon=2.0, opt_projection_format_epsilon=1.0)
    kinds = {"prompt": 2, "separator": 3, "target": 4}
    parts = tokens(engine, data)
    config = peft.CPTConfig(
        task_type="CAUSAL_LM",
        cpt_token_ids=[token for _, token in parts],
        cpt_mask=[1] * len(parts),
        cpt_tokens_type_mask=[kinds[what] for what, _ in parts],
        opt_projection_epsilon=2.0,
        opt_projection_format_epsilon=1.0,
    )
    stock: Any = peft.get_peft_model(load_base(tiny_model)[0], config)
    torch.manual_seed(0)
    changes = torch.randn(len(parts), 32)
    for model in (stock, engine.model):
        model.prompt_encoder["default"].delta_embedding.weight.data.copy_(changes)
    with torch.no_grad():
        assert torch.equal(stock.get_prompt(1)[0], prompt(engine))


def test_what_is_saved_is_prompt_tuning_with_the_same_answers(
    tiny_model: Path, tiny_task: Path, tmp_path: Path
) -> None:
    engine, data = build(tiny_model, tiny_task, opt_projection_epsilon=2.0)
    documents = [e.document for e in data.test]
    train(engine, data, tmp_path / "checkpoints")
    write_adapter(engine.model, tmp_path / "adapter")
    stock = PeftModel.from_pretrained(load_base(tiny_model)[0], str(tmp_path / "adapter")).eval()
    assert type(stock.active_peft_config) is PromptTuningConfig
    with torch.no_grad():
        expected = scores(Engine(stock, engine.tokenizer), documents, packed=False).logits
        for packed in (True, False):
            torch.testing.assert_close(scores(engine, documents, packed).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"demonstrations": 0}, r"^cpt.demonstrations: expected a number above 0, found 0$"),
        ({"demonstrations": 41}, r"^cpt.demonstrations: 41 is not between 0 and the 40 rows of train$"),
        ({"demonstrations": 20}, r"^cpt.demonstrations: 20 make \d+ virtual tokens, and the longest row has \d+: more"),
        ({"opt_projection_epsilon": 0.0}, r"^cpt.opt_projection_epsilon: expected a number above 0, found 0.0$"),
    ],
)
def test_settings_without_sense_are_refused(
    tiny_model: Path, tiny_task: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        build(tiny_model, tiny_task, **settings)
