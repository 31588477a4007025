"""IA3: factors that start at one and are the only trainable parameters; refused for models without fitting layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers import load_base, scores
from softprompts.config.methods import IA3Config
from softprompts.config.sections import ModelConfig
from softprompts.encoding.documents import Document
from softprompts.engine.build import disagreement
from softprompts.engine.forward import Engine
from softprompts.errors import UserError
from softprompts.methods.baselines.ia3 import add_ia3
from softprompts.methods.preflight import check_method

import pytest
import torch
from peft import PeftModel

DOCUMENTS = [Document((0, 5, 6), (7,)), Document((0, *range(20, 33)), (40, 41, 42))]


def attach(folder: Path, dtype: str = "float32", **settings: Any) -> PeftModel:
    return add_ia3(load_base(folder, dtype)[0], IA3Config(**settings)).eval()


def factors(model: PeftModel) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the trainable parameters in the model's first layer, by name."""
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad and ".layers.0." in name]
    return {name.partition(".ia3_l")[0].rpartition(".")[2]: tuple(p.shape) for name, p in trainable}


def test_keys_values_and_inner_activations_get_factors_of_one(tiny_model: Path) -> None:
    model = attach(tiny_model)
    # Two groups of heads of eight; the inner layer has 64 activations, which enter its last matrix.
    assert factors(model) == {"k_proj": (16, 1), "v_proj": (16, 1), "down_proj": (1, 64)}
    assert all((p == 1).all() for p in model.parameters() if p.requires_grad)
    found, expected = (Engine(m, None) for m in (model, load_base(tiny_model)[0]))  # type: ignore[arg-type]
    with torch.no_grad():
        logits = scores(found, DOCUMENTS, packed=False).logits
        assert torch.equal(logits, scores(expected, DOCUMENTS, packed=False).logits)


def test_a_factor_multiplies_what_its_layer_gives(tiny_model: Path) -> None:
    model, plain = attach(tiny_model, target_modules=["v_proj"], feedforward_modules=[]), load_base(tiny_model)[0]
    assert set(factors(model)) == {"v_proj"}
    weights: Any = {name: p for name, p in plain.named_parameters() if "v_proj" in name}
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.rand_like(parameter) + 0.5)
                weights[name.removeprefix("base_model.model.").partition(".ia3_l")[0] + ".weight"].mul_(parameter)
    engine, by_hand = (Engine(m, None) for m in (model, plain))  # type: ignore[arg-type]
    with torch.no_grad():
        found, expected = (scores(e, DOCUMENTS, packed=False).logits for e in (engine, by_hand))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert disagreement(engine, DOCUMENTS) is None


def test_factors_are_whole_beside_a_base_in_half_precision(tiny_model: Path) -> None:
    assert {p.dtype for p in attach(tiny_model, "bfloat16").parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_modules": ["k_prj"], "feedforward_modules": []}, r"^ia3: Target modules .*k_prj.* not found"),
        (
            {"target_modules": ["k_proj"], "feedforward_modules": ["down_proj"]},
            r"^ia3: `feedforward_modules` should be a subset of `target_modules`$",
        ),
    ],
)
def test_settings_without_sense_are_refused_before_anything_is_loaded(
    tiny_model: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_method("ia3", ModelConfig(str(tiny_model)), IA3Config(**settings))
    with pytest.raises(UserError, match=message):
        attach(tiny_model, **settings)
