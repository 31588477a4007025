"""Methods that change weights: LoRA with frozen base weights, its dropout only in steps, and full fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers import load_base, make_task, scores
from softprompts.checkpoints.parameters import trainable_tensors
from softprompts.config.sections import ModelConfig, TrainingConfig
from softprompts.encoding.documents import Document, EncodedTask, Example
from softprompts.engine.build import make_engine
from softprompts.engine.forward import Engine
from softprompts.errors import UserError
from softprompts.methods.baselines.full_finetuning import train_everything
from softprompts.methods.baselines.lora import add_lora
from softprompts.methods.soft_prompts.p_tuning import add_prompt_encoder
from softprompts.models.loading import count_parameters, load_base_model
from softprompts.tasks.task import Row
from softprompts.training.state import make_candidate
from softprompts.training.step import update

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, PeftModel, PromptEncoderConfig

DOCUMENTS = [Document((0, 5, 6), (7,)), Document((0, *range(20, 33)), (40, 41, 42)), Document((0, 9), (3, 8))]
ROWS = [Example(Row("row", "", "", {}), d, (), ()) for d in DOCUMENTS]
DATA = EncodedTask(make_task([("", "")]), ROWS, ROWS, ROWS)


def attach(folder: Path, seed: int | None = 0, **settings: Any) -> PeftModel:
    config = LoraConfig(**{"r": 4, "target_modules": "all-linear"} | settings)
    return add_lora(load_base(folder)[0], config, seed=seed)


def in_the_base(model: PeftModel) -> dict[str, torch.Tensor]:
    """Return the weights that are not LoRA's, under the names that they have without it."""
    state = model.get_base_model().state_dict()
    return {name.replace("base_layer.", ""): t.clone() for name, t in state.items() if "lora_" not in name}


def engine_of(model: Any) -> Engine:
    return make_engine(model, None, config=ModelConfig(), data=DATA, say=print)  # type: ignore[arg-type]


def step(engine: Engine, folder: Path, seed: int = 0, at: int = 0, **training: Any) -> float:
    """Make the step of number `at`, and return its loss."""
    settings = TrainingConfig(**{"steps": 9, "learning_rate": 0.01, "schedule": "constant"} | training)
    candidate = make_candidate(engine, 0, data=DATA, training=settings, seed=seed, folder=folder)
    candidate.progress.step = at
    return update(engine, [(candidate, DOCUMENTS)], Accelerator(cpu=True))[0]


def test_lora_begins_as_the_base_model_and_then_does_not(tiny_model: Path, tmp_path: Path) -> None:
    plain = scores(Engine(load_base(tiny_model)[0], None), DOCUMENTS, packed=False).logits  # type: ignore[arg-type]
    engine = engine_of(attach(tiny_model))
    assert engine.packed
    for packed in (False, True):
        torch.testing.assert_close(scores(engine, DOCUMENTS, packed).logits, plain, rtol=1e-4, atol=1e-4)
    step(engine, tmp_path)
    assert (scores(engine, DOCUMENTS, packed=False).logits - plain).abs().max() > 1e-3
    with engine.model.disable_adapter():
        torch.testing.assert_close(scores(engine, DOCUMENTS, packed=False).logits, plain)


def test_lora_trains_its_own_matrices_and_moves_nothing_else(tiny_model: Path, tmp_path: Path) -> None:
    model = attach(tiny_model, target_modules=["q_proj", "v_proj"])
    before = in_the_base(model)
    plain = load_base(tiny_model)[0].state_dict()
    assert before.keys() == plain.keys()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in before.items())
    # 2 layers; queries are 32 wide, values 16: (r, in) and (out, r) each.
    assert count_parameters(model).trainable == 2 * ((4 * 32 + 32 * 4) + (4 * 32 + 16 * 4))
    engine = engine_of(model)
    starts = {name: tensor.clone() for name, tensor in trainable_tensors(model).items()}
    assert all("lora_" in name for name in starts)
    for number in range(2):  # the gradient of A is zero until B has moved
        step(engine, tmp_path, at=number)
    moved = trainable_tensors(model)
    assert all(not torch.equal(moved[name], tensor) for name, tensor in starts.items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in in_the_base(model).items())


def test_lora_is_float32_and_follows_the_seed(tiny_model: Path) -> None:
    def draw(seed: int, state: int) -> torch.Tensor:
        torch.manual_seed(state)
        model = add_lora(
            load_base(tiny_model, dtype="bfloat16")[0], LoraConfig(r=4, target_modules="all-linear"), seed=seed
        )
        tensors = trainable_tensors(model).values()
        assert {t.dtype for t in tensors} == {torch.float32}
        return torch.cat([t.flatten() for t in tensors])

    assert torch.equal(draw(1, 0), draw(1, 2))
    assert not torch.equal(draw(1, 0), draw(2, 0))


def test_an_encoders_classifier_trains_with_lora(tiny_encoder: Path) -> None:
    base = load_base_model(ModelConfig(str(tiny_encoder)), torch.device("cpu"), ["a", "b"])[0]
    model = add_lora(base, LoraConfig(r=2, target_modules=["query"]), seed=0)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert any("classifier" in name for name in names)
    assert all("classifier" in name or "lora_" in name for name in names)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_modules": ["q_projj"]}, r"^lora: .*q_projj"),
        ({"r": 0}, r"^lora: .*positive integer.* 0$"),
        ({"alora_invocation_tokens": [5]}, r"^lora\.alora_invocation_tokens: LoRA would work only after these tokens"),
    ],
)
def test_settings_without_sense_are_refused(tiny_model: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        attach(tiny_model, **settings)
    assert "\n" not in str(caught.value)


def test_the_settings_handed_in_stay_as_they_are(tiny_model: Path) -> None:
    config = LoraConfig(r=4, target_modules="all-linear")
    before = config.to_dict()
    add_lora(load_base(tiny_model)[0], config)
    assert config.to_dict() == before


def with_dropout(folder: Path, method: str) -> Any:
    if method == "lora":
        model = attach(folder, lora_dropout=0.5)
        with torch.no_grad():  # matrices B of zeros would hide their inputs
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(1))
        return model
    kind = {"encoder_reparameterization_type": "LSTM", "encoder_dropout": 0.5}
    config = PromptEncoderConfig(num_virtual_tokens=5, encoder_hidden_size=16, **kind)
    return add_prompt_encoder(load_base(folder)[0], config, seed=0)


@pytest.mark.parametrize("method", ["lora", "P-tuning"])
def test_dropout_acts_in_updates_only_and_is_drawn_by_seed_and_step(
    tiny_model: Path, tmp_path: Path, method: str
) -> None:
    def drawn(seed: int, at: int, state: int = 0) -> float:
        engine = engine_of(with_dropout(tiny_model, method))
        torch.manual_seed(state)
        return step(engine, tmp_path, seed, at)

    engine = engine_of(with_dropout(tiny_model, method))
    still = scores(engine, DOCUMENTS, packed=False).nll().mean().item()
    assert scores(engine, DOCUMENTS, packed=False).nll().mean().item() == still, "twice the same without an update"
    first = drawn(0, 0)
    assert abs(first - still) > 1e-4, "dropout changes the loss of an update"
    assert drawn(0, 0, state=5) == first, "whatever was drawn before: a resumed run goes on as if it had not stopped"
    assert len({first, drawn(0, 1), drawn(1, 0)}) == 3
    step(engine, tmp_path, learning_rate=1e-30)  # float32 does not move
    assert scores(engine, DOCUMENTS, packed=False).nll().mean().item() == pytest.approx(still, rel=1e-6)
    assert not any(module.training for module in engine.modules())


def test_full_fine_tuning_moves_every_weight(tiny_model: Path, tmp_path: Path) -> None:
    base = load_base(tiny_model)[0]
    assert train_everything(base) is base
    assert count_parameters(base).trainable == count_parameters(base).total
    assert not base.training, "a base model's own dropout stays off"
    before = {name: p.detach().clone() for name, p in base.named_parameters()}
    engine = engine_of(base)
    step(engine, tmp_path)
    assert [name for name, p in base.named_parameters() if torch.equal(p, before[name])] == []


def test_full_fine_tuning_of_quantised_weights_is_refused(tiny_model: Path) -> None:
    base = load_base(tiny_model)[0]
    base.is_quantized = True
    with pytest.raises(
        UserError, match=r"^model\.quantization: full fine-tuning requires unquantised weights; set it to none"
    ):
        train_everything(base)
