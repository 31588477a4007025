"""Parametrisations: initial values, trainable parameters, results, and that stock PEFT gets the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from helpers import TEXT, load_base, make_task, scores
from softprompts.adapters.saving import write_adapter
from softprompts.config.methods import PrefixConfig, PromptConfig
from softprompts.config.sections import EvaluationConfig, ModelConfig
from softprompts.encoding.documents import Document
from softprompts.encoding.tokenization import encode
from softprompts.engine.build import disagreement
from softprompts.engine.forward import Engine
from softprompts.errors import UserError
from softprompts.evaluation.predict import predict
from softprompts.methods.parametrization import Superposition, parameter_groups
from softprompts.methods.soft_prompts.prefix_tuning import add_prefix
from softprompts.methods.soft_prompts.prompt_tuning import add_soft_prompt
from softprompts.models.loading import InputSpec, count_parameters, load_base_model

import pytest
import torch
from accelerate import Accelerator
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

TOKENS, WIDTH, LAYERS, CELL = 6, 32, 2, 16  # a cell: the keys, or values, of one token in one layer
DOCUMENTS = [Document((0, 5, 6), (7,)), Document((0, *range(20, 33)), (40, 41, 42))]
PROMPTS: dict[str, dict[str, Any]] = {
    "residual MLP": {"parametrization": "residual_mlp", "bottleneck": 12},
    "low rank": {"parametrization": "low_rank", "rank": 3},
    "superposition": {"parametrization": "superposition", "sampled_embeddings": 9},
}
PREFIXES: dict[str, dict[str, Any]] = {
    "scales": {"parametrization": "scales"},
    "frozen keys": {"key_rate": 0},
    "rates": {"key_rate": 0.1, "value_rate": 2, "layer_rates": [0.5, 1], "frozen_first": 1},
    "upper layer": {"layer_rates": [0, 1]},
}
ALL = PROMPTS | PREFIXES


def attach(folder: Path, dtype: str = "float32", seed: int | None = 0, **settings: Any) -> PeftModel:
    """Return the tiny model with a soft prompt, or with a prefix if the settings are of one."""
    base, tokenizer = load_base(folder, dtype=dtype)
    start = {"num_virtual_tokens": TOKENS}
    if settings in PREFIXES.values() or "init_text" in settings:
        return add_prefix(base, tokenizer, PrefixConfig(**start | {"init_text": TEXT} | settings), seed=seed).eval()
    text = {"prompt_tuning_init_text": TEXT}
    return add_soft_prompt(base, tokenizer, PromptConfig(**start | text | settings), seed=seed).eval()


def values(model: Any) -> torch.Tensor:
    """Return the embeddings of a soft prompt, or the keys and values of a prefix, (tokens, layers * 2 * cell)."""
    return model.prompt_encoder["default"].embedding.weight.detach().clone()


def trained(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def own(model: Any) -> Any:
    """Return the module that computes a soft prompt."""
    return model.prompt_encoder["default"].embedding.parametrizations.weight[0]


def moved(model: PeftModel, by: float = 0.3) -> PeftModel:
    """Move all that trains, as far as training might."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in trained(model).values():
            parameter.add_(by * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_starts_at_the_values_of_the_direct_one(tiny_model: Path, name: str, dtype: str) -> None:
    direct = attach(tiny_model, dtype, **({"init_text": TEXT} if name in PREFIXES else {}))
    model = attach(tiny_model, dtype, **ALL[name])
    assert torch.equal(values(model), values(direct))
    assert {p.dtype for p in trained(model).values()} == {torch.float32}
    assert not torch.equal(values(moved(model)), values(direct))


@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("start", [{"init_from": "uniform"}, {"prompt_tuning_init": "SAMPLE_VOCAB"}])
def test_what_is_drawn_follows_the_seed_and_leaves_the_start_alone(
    tiny_model: Path, name: str, start: dict[str, str]
) -> None:
    def drawn(seed: int, **settings: Any) -> torch.Tensor:
        return values(moved(attach(tiny_model, seed=seed, prompt_tuning_init_text=None, **start, **settings)))

    base, tokenizer = load_base(tiny_model)
    settings = {"num_virtual_tokens": TOKENS} | start
    direct = values(add_soft_prompt(base, tokenizer, PromptConfig(**settings), seed=1))
    assert torch.equal(
        values(add_soft_prompt(base, tokenizer, PromptConfig(**settings | PROMPTS[name]), seed=1)), direct
    )
    assert torch.equal(drawn(1, **PROMPTS[name]), drawn(1, **PROMPTS[name]))
    assert not torch.equal(drawn(1, **PROMPTS[name]), drawn(2, **PROMPTS[name]))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("residual MLP", TOKENS * WIDTH + (WIDTH + 1) * 12 + (12 + 1) * WIDTH + 2 * WIDTH),
        ("low rank", TOKENS * 3 + 2 * WIDTH),
        ("superposition", TOKENS * (TOKENS + 9)),
        ("scales", TOKENS * LAYERS * 2 * CELL + LAYERS * 2),
        ("frozen keys", TOKENS * LAYERS * CELL),
        ("rates", (TOKENS - 1) * LAYERS * 2 * CELL),
        ("upper layer", TOKENS * 2 * CELL),
    ],
)
def test_as_many_numbers_train_as_the_paper_has(tiny_model: Path, name: str, expected: int) -> None:
    assert count_parameters(attach(tiny_model, **ALL[name])).trainable == expected


@pytest.mark.parametrize(
    ("parametrization", "expected"),
    [
        ("residual_mlp", 8 * WIDTH + (WIDTH + 1) * 100 + (100 + 1) * WIDTH + 2 * WIDTH),
        ("low_rank", 8 * 2 + 2 * WIDTH),
        ("superposition", 8 * (8 + 128)),
    ],
)
def test_a_size_that_nobody_gives_is_the_papers(
    tiny_model: Path, parametrization: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 800 is more than 16 times the width of the tiny model.
    monkeypatch.setattr("softprompts.methods.parametrization.WIDEST", 25)
    size = {"bottleneck": 100} if parametrization == "residual_mlp" else {}
    model = attach(tiny_model, num_virtual_tokens=8, parametrization=parametrization, **size)
    assert count_parameters(model).trainable == expected
    assert PromptConfig(parametrization="residual_mlp").width == 800


def test_the_residual_mlp_adds_a_network_of_each_token(tiny_model: Path) -> None:
    model = moved(attach(tiny_model, **PROMPTS["residual MLP"]))
    prompt = model.prompt_encoder["default"].embedding.parametrizations.weight.original  # type: ignore[union-attr]
    first, _, second, norm = own(model).network
    hidden = (prompt @ first.weight.T + first.bias).clamp(min=0)
    out = hidden @ second.weight.T + second.bias
    out = (out - out.mean(1, keepdim=True)) / (out.var(1, correction=0, keepdim=True) + norm.eps).sqrt()
    torch.testing.assert_close(values(model), (prompt + out * norm.weight + norm.bias).detach())


def test_low_rank_adds_scaled_and_shifted_codes(tiny_model: Path) -> None:
    start = values(attach(tiny_model))
    model = moved(attach(tiny_model, **PROMPTS["low rank"]))
    module = own(model)
    assert module.projection.shape == (3, WIDTH)
    change = sum(module.codes[:, [k]] * module.projection[k] for k in range(3))
    torch.testing.assert_close(values(model), (start + module.scale * change + module.shift).detach())
    assert torch.linalg.matrix_rank(values(model) - start - module.shift.detach()) == 3


def test_a_superposition_mixes_the_start_and_embeddings_of_the_vocabulary(tiny_model: Path) -> None:
    start = values(attach(tiny_model))
    model = moved(attach(tiny_model, **PROMPTS["superposition"]))
    module = own(model)
    words = load_base(tiny_model)[0].get_input_embeddings().weight
    assert all((words == row).all(1).any() for row in module.sampled)
    shares = module.mixture
    expected = shares[:, :TOKENS] @ start + shares[:, TOKENS:] @ module.sampled
    torch.testing.assert_close(values(model), expected.detach())


def test_scales_multiply_keys_and_values_of_a_layer(tiny_model: Path) -> None:
    model = attach(tiny_model, **PREFIXES["scales"])
    before = model.get_prompt(1)
    with torch.no_grad():
        own(model).factors.copy_(torch.tensor([2.0, 3.0, 5.0, 7.0]))  # keys, values; keys, values
    after: Any = model.get_prompt(1)
    for layer, (keys, scaled) in enumerate([(2, 3), (5, 7)]):
        assert torch.equal(after.layers[layer].keys, keys * before.layers[layer].keys)  # type: ignore[attr-defined]
        assert torch.equal(after.layers[layer].values, scaled * before.layers[layer].values)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_saved_is_the_outcome_and_stock_peft_gives_the_same_logits(
    tiny_model: Path, tmp_path: Path, name: str, dtype: str
) -> None:
    model = moved(attach(tiny_model, dtype, **ALL[name]))
    write_adapter(model, tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert saved.keys() == {"prompt_embeddings"}
    assert torch.equal(saved["prompt_embeddings"], values(model))
    config = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert (
        not (PromptConfig.__dataclass_fields__ | PrefixConfig.__dataclass_fields__).keys()
        & config.keys()
        & {
            *("parametrization", "bottleneck", "rank", "sampled_embeddings"),
            *("key_rate", "value_rate", "layer_rates", "frozen_first"),
        }
    )
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=getattr(torch, dtype)).eval()
    stock = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    ids = torch.tensor([[0, 5, 6, 20, 21]])
    with torch.no_grad():
        ours, theirs = (m(input_ids=ids, attention_mask=torch.ones_like(ids)).logits for m in (model, stock))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ALL)
def test_autocast_does_not_round_a_soft_prompt(tiny_model: Path, name: str) -> None:
    model = moved(attach(tiny_model, **ALL[name]))
    whole = values(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(values(model), whole)


@pytest.mark.parametrize("name", ALL)
def test_both_forward_passes_agree_on_loss_and_gradient(tiny_model: Path, name: str) -> None:
    model = moved(attach(tiny_model, **ALL[name]), by=0.1)
    assert disagreement(Engine(model, None), DOCUMENTS) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ALL)
def test_what_the_prompt_cache_keeps_is_not_stale(tiny_model: Path, name: str) -> None:
    model = moved(attach(tiny_model, **ALL[name]))  # at the start a layer of zeros hides those before it
    engine = Engine(model, load_base(tiny_model)[1], packed=True)
    for parameter in trained(model).values():
        with torch.no_grad(), engine.prompts_cached():
            before = scores(engine, DOCUMENTS, packed=True).logits
            parameter.add_(torch.randn_like(parameter))
            after = scores(engine, DOCUMENTS, packed=True).logits
        with torch.no_grad():
            expected = scores(engine, DOCUMENTS, packed=False).logits
        assert (after - before).abs().max() > 1e-3
        torch.testing.assert_close(after, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("packed", [True, False])
def test_an_evaluation_computes_a_soft_prompt_once(
    tiny_model: Path, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_base(tiny_model)[1]
    engine = Engine(attach(tiny_model, **PROMPTS["superposition"]), tokenizer, packed=packed)
    calls, forward = [], Superposition.forward

    def counted(module: Superposition, start: torch.Tensor) -> torch.Tensor:
        calls.append(start)
        return forward(module, start)

    monkeypatch.setattr(Superposition, "forward", counted)
    data = encode(
        make_task([("the film", " good"), ("a plot", " dull"), ("the cast", " good")]), tokenizer, InputSpec(200)
    )
    for _ in range(2):
        predict(engine, data.test, EvaluationConfig(batch_size=1, max_new_tokens=3), Accelerator(cpu=True), "a test")
    assert len(calls) == 2


def cells(model: PeftModel) -> torch.Tensor:
    """Return a prefix as (tokens, layers, keys and values, cell)."""
    return values(model).view(TOKENS, LAYERS, 2, CELL)


def one_step(model: PeftModel, rate: float) -> torch.Tensor:
    """Return the change of each cell in Adam's first step: its learning rate, with any gradient."""
    before = cells(model)
    optimizer = torch.optim.AdamW(parameter_groups(model, rate), lr=rate, weight_decay=0.0)
    Engine(model, None, packed=True)(DOCUMENTS).nll().mean().backward()  # type: ignore[arg-type]
    optimizer.step()
    return (cells(model) - before).abs().median(-1).values


def test_keys_values_layers_and_first_tokens_move_at_their_rates(tiny_model: Path) -> None:
    steps = one_step(attach(tiny_model, **PREFIXES["rates"]), 0.02)
    assert not steps[0].any()
    expected = 0.02 * torch.tensor([[0.5 * 0.1, 0.5 * 2], [0.1, 2]])  # layers, then keys and values
    torch.testing.assert_close(steps[1:], expected.expand(TOKENS - 1, -1, -1), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["frozen keys", "upper layer"])
def test_a_rate_of_zero_leaves_the_values_to_the_last_bit(tiny_model: Path, name: str) -> None:
    model = attach(tiny_model, **PREFIXES[name])
    before = cells(model)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.05), lr=0.05, weight_decay=0.5, fused=True)
    for _ in range(3):
        Engine(model, None, packed=True)(DOCUMENTS).nll().mean().backward()  # type: ignore[arg-type]
        optimizer.step()
        optimizer.zero_grad()
    after = cells(model)
    frozen = (slice(None), slice(None), 0) if name == "frozen keys" else (slice(None), 0)
    assert torch.equal(after[frozen], before[frozen])
    assert ((after != before).flatten(0, 2).any(-1).sum()) == TOKENS * LAYERS  # half of the cells


def test_parts_of_one_rate_move_as_a_whole_prefix_does(tiny_model: Path) -> None:
    whole, parts = attach(tiny_model, init_text=TEXT), attach(tiny_model, init_text=TEXT, layer_rates=[0.5, 0.5])
    for model, rate in ((whole, 0.01), (parts, 0.02)):
        (group,) = parameter_groups(model, rate)
        optimizer = torch.optim.AdamW([group], lr=rate)
        for _ in range(3):
            Engine(model, None, packed=True)(DOCUMENTS).nll().mean().backward()  # type: ignore[arg-type]
            optimizer.step()
            optimizer.zero_grad()
    assert torch.equal(values(whole), values(parts))


def test_the_group_of_the_given_rate_comes_first(tiny_model: Path) -> None:
    model = attach(tiny_model, init_text=TEXT, key_rate=0.1)
    assert [group["lr"] for group in parameter_groups(model, 0.5)] == [0.5, 0.05]
    (group,) = parameter_groups(attach(tiny_model), 0.5)
    assert group["lr"] == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"parametrization": "low_rank", "rank": 33},
            "rank: 33 is more than the 32 dimensions of the embeddings; expected at most 32",
        ),
        ({"parametrization": "low_rank", "rank": 0}, "rank: expected a number above 0, found 0"),
        ({"parametrization": "residual_mlp", "bottleneck": -1}, "bottleneck: expected a number above 0, found -1"),
        (
            {"parametrization": "residual_mlp", "bottleneck": 513},
            "bottleneck: 513 is more than 16 times the 32 dimensions of the embeddings; expected at most 512",
        ),
        (
            {"parametrization": "superposition", "sampled_embeddings": 10**9},
            r"sampled_embeddings: 1000000000 is more than the \d+ embeddings of the model; expected at most \d+",
        ),
        ({"rank": 2}, "rank: applies only to parametrization: low_rank; set that, or rank to null"),
        (
            {"parametrization": "low_rank", "sampled_embeddings": 2},
            "sampled_embeddings: applies only to parametrization: superposition; set that, or sampled_embeddings",
        ),
    ],
)
def test_sizes_without_sense_are_refused(tiny_model: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"^prompt\.{message}"):
        attach(tiny_model, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"key_rate": -0.1}, "key_rate: expected 0 or more, found -0.1"),
        ({"layer_rates": [1, -1]}, r"layer_rates: expected 0 or more, found \[1, -1\]"),
        ({"layer_rates": []}, r"layer_rates: expected 0 or more, found \[\]"),
        (
            {"key_rate": 0, "value_rate": 0},
            "value_rate: every rate is 0, so the prefix would not be trained; set one above 0",
        ),
        ({"layer_rates": [0, 0]}, "layer_rates: every rate is 0, so the prefix would not be trained; set one above 0"),
        ({"frozen_first": -1}, "frozen_first: expected 0 or more, found -1"),
        ({"frozen_first": 6}, "frozen_first: 6 of 6 virtual tokens would leave none to train"),
        ({"layer_rates": [1, 1, 0]}, "layer_rates: 3 rates do not divide 2 layers evenly; the number can be 1, 2"),
        ({"parametrization": "scales", "key_rate": 0}, "parametrization: scales cannot be combined with key_rate, "),
        (
            {"init_text": None, "prefix_projection": True, "value_rate": 0.5},
            "prefix_projection: cannot be combined with parametriz",
        ),
        (
            {"init_text": None, "prefix_projection": True, "parametrization": "scales"},
            "prefix_projection: cannot be combined with parametrization: scales or key_rate, value_rate,",
        ),
    ],
)
def test_rates_without_sense_are_refused(tiny_model: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"^prefix\.{message}"):
        attach(tiny_model, **({"init_text": TEXT} | settings))


@pytest.mark.parametrize(("kind", "name"), [("tiny_t5", "residual MLP"), ("tiny_encoder", "rates")])
def test_other_kinds_of_base_models_take_them(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, name: str
) -> None:
    config, choices = ModelConfig(str(request.getfixturevalue(kind))), ["a", "b"]
    base, tokenizer = load_base_model(config, torch.device("cpu"), choices)
    if kind == "tiny_t5":
        model = add_soft_prompt(
            base, tokenizer, PromptConfig(TOKENS, prompt_tuning_init_text=TEXT, **ALL[name]), seed=0
        )
    else:
        model = add_prefix(base, tokenizer, PrefixConfig(TOKENS, **ALL[name]), seed=0)
    moved(model.eval())
    write_adapter(model, tmp_path)
    fresh, _ = load_base_model(config, torch.device("cpu"), choices)
    stock = PeftModel.from_pretrained(fresh, str(tmp_path)).eval()
    ids = torch.tensor([[5, 6, 20, 21]])
    more = {"decoder_input_ids": ids} if kind == "tiny_t5" else {}
    with torch.no_grad():
        ours, theirs = (m(input_ids=ids, attention_mask=torch.ones_like(ids), **more).logits for m in (model, stock))
    assert torch.equal(ours, theirs)
