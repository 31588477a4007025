"""Parametrisations: training computes the soft prompt from other parameters, and the result is saved.

PyTorch's `parametrize` adds them to the embedding of PEFT's prompt encoder. All code that reads that embedding gets the
result: both forward passes, the prompt cache, and PEFT's saving. So the adapter is a stock one, and checkpoints have
the trainable parameters. Each parametrisation starts at exactly the initial values of the soft prompt.

They compute in float32, also under autocast, so the saved values are exactly those at the end of training.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from softprompts.config.methods import PrefixConfig, PromptConfig
from softprompts.errors import UserError
from softprompts.methods.attach import initial_values
from softprompts.models.peft_compat import encoder_of

import torch
from peft import PeftModel
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList, register_parametrization
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

WIDEST = 16  # largest width of a bottleneck, in widths of the embeddings; more is probably a mistake


class ResidualMLP(nn.Module):
    """P + MLP(P), one network for all virtual tokens: residual prompt tuning (Razdaibiedina et al. 2023).

    The network is linear, ReLU, linear, LayerNorm. All of it is trained, including P (tokens, width). The LayerNorm's
    gain and bias start at zero, so the network adds nothing at first.
    """

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        norm = nn.LayerNorm(width)
        nn.init.zeros_(norm.weight)
        self.network = nn.Sequential(nn.Linear(width, bottleneck), nn.ReLU(), nn.Linear(bottleneck, width), norm)

    def forward(self, prompt: torch.Tensor) -> torch.Tensor:
        with torch.autocast(prompt.device.type, enabled=False):
            return prompt + self.network(prompt)


class LowRank(nn.Module):
    """start + scale * (Z R) + shift: ultra-low-dimensional prompt tuning (ULPT, Wu et al. 2025).

    Z (tokens, rank), scale and shift (width,) are trained; R (rank, width), sampled from N(0, 1 / rank), is frozen.
    ULPT has no start: a random R of low rank cannot express given embeddings, and least squares would keep about rank /
    width of them. Here the start is frozen, and the learned part is added to it. Z starts at zero.
    """

    projection: torch.Tensor

    def __init__(self, tokens: int, width: int, rank: int) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.zeros(tokens, rank))
        self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("projection", torch.randn(rank, width) / rank**0.5)

    def forward(self, start: torch.Tensor) -> torch.Tensor:
        with torch.autocast(start.device.type, enabled=False):
            return start + self.scale * (self.codes @ self.projection) + self.shift


class Superposition(nn.Module):
    """Each virtual token is a learned mixture of embeddings: SuperPos-Prompt (Ali Sadraei Javaheri et al. 2024).

    The embeddings are the soft prompt's start (tokens, width) and others sampled from the vocabulary (count, width),
    all frozen. The mixture (tokens, tokens + count) is trained. At first, each virtual token is its own start.
    """

    sampled: torch.Tensor

    def __init__(self, tokens: int, sampled: torch.Tensor) -> None:
        super().__init__()
        self.mixture = nn.Parameter(torch.cat([torch.eye(tokens), torch.zeros(tokens, len(sampled))], dim=1))
        self.register_buffer("sampled", sampled)

    def forward(self, start: torch.Tensor) -> torch.Tensor:
        with torch.autocast(start.device.type, enabled=False):
            return self.mixture @ torch.cat([start, self.sampled])


class Scales(nn.Module):
    """A prefix times learned factors for the keys and the values of each layer, which start at one."""

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.ones(cells))

    def forward(self, prefix: torch.Tensor) -> torch.Tensor:
        with torch.autocast(prefix.device.type, enabled=False):
            return (prefix.unflatten(1, (len(self.factors), -1)) * self.factors[:, None]).flatten(1)


class Parts(nn.Module):
    """A prefix in parts with separate learning rates, because a learning rate applies to a whole tensor.

    Args:
        rates: factors on the learning rate for each virtual token's keys or values of each layer, (tokens, layers * 2).
            Cells with one rate form a part, (cells, groups * head size).
    """

    part: torch.Tensor
    place: torch.Tensor

    def __init__(self, rates: torch.Tensor) -> None:
        super().__init__()
        self.tokens = len(rates)
        found, number = rates.flatten().unique(return_inverse=True)
        self.rates: list[float] = found.tolist()
        self.register_buffer("part", number)
        self.register_buffer("place", torch.argsort(torch.argsort(number, stable=True)))

    def right_inverse(self, prefix: torch.Tensor) -> tuple[torch.Tensor, ...]:
        cells = prefix.reshape(len(self.part), -1)
        return tuple(cells[self.part == number] for number in range(len(self.rates)))

    def forward(self, *parts: torch.Tensor) -> torch.Tensor:
        return torch.cat(parts)[self.place].reshape(self.tokens, -1)


def parametrize_prompt(
    model: PeftModel, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: PromptConfig
) -> None:
    """Add `config.parametrization` to the soft prompt (tokens, width) of a model, without changing its values.

    PyTorch's generator decides random values.

    Raises:
        UserError: the size is too large for the base model's embeddings.
    """
    if config.parametrization == "direct":
        return
    weight = encoder_of(model).embedding.weight
    tokens, width = weight.shape
    vocabulary: Any = base.get_input_embeddings().weight
    size = config.width
    if config.parametrization == "residual_mlp":
        _check_most("bottleneck", size, WIDEST * width, f"{WIDEST} times the {width} dimensions of the embeddings")
        module: nn.Module = ResidualMLP(width, size)
    elif config.parametrization == "low_rank":
        _check_most("rank", size, width, f"the {width} dimensions of the embeddings")
        module = LowRank(tokens, width, size)
    else:
        _check_most("sampled_embeddings", size, len(vocabulary), f"the {len(vocabulary)} embeddings of the model")
        sampled = initial_values(base, tokenizer, size, start="SAMPLE_VOCAB", text=None)
        assert sampled is not None
        module = Superposition(tokens, sampled)
    weight.requires_grad_(config.parametrization == "residual_mlp")
    _register(model, module)


def _check_most(key: str, value: int, most: int, what: str) -> None:
    if value > most:
        raise UserError(f"prompt.{key}: {value} is more than {what}; expected at most {most}")


def parametrize_prefix(model: PeftModel, config: PrefixConfig) -> None:
    """Add scales, or rates of parts, to the prefix (tokens, layers * 2 * groups * head size) of a model.

    Raises:
        UserError: the layers cannot be divided evenly among the rates.
    """
    layers: int = model.active_peft_config.num_layers
    if config.parametrization == "scales":
        _register(model, Scales(layers * 2))
    if config.one_rate:
        return
    given = config.layer_rates or [1.0]
    if layers % len(given):
        valid = ", ".join(str(n) for n in range(1, layers + 1) if layers % n == 0)
        raise UserError(
            f"prefix.layer_rates: {len(given)} rates do not divide {layers} layers evenly; the number can be {valid}"
        )
    by_layer = torch.tensor(given, dtype=torch.float64).repeat_interleave(layers // len(given))
    kinds = torch.tensor([config.key_rate, config.value_rate], dtype=torch.float64)
    rates = (by_layer[:, None] * kinds).flatten().repeat(config.num_virtual_tokens, 1)
    rates[: config.frozen_first] = 0
    parts = Parts(rates)
    _register(model, parts)
    originals = encoder_of(model).embedding.parametrizations.weight
    for number, rate in enumerate(parts.rates):
        getattr(originals, f"original{number}").requires_grad_(rate > 0)


def _register(model: PeftModel, module: nn.Module) -> None:
    embedding = encoder_of(model).embedding
    register_parametrization(embedding, "weight", module.to(embedding.weight.device))


def parameter_groups(
    model: nn.Module, learning_rate: float, undecayed: Container[nn.Parameter] = ()
) -> list[dict[str, Any]]:
    """Return a model's trainable parameters as optimizer groups, one per rate; `learning_rate` comes first.

    Parameters in `undecayed` have groups of their own, without weight decay.
    """
    factors: dict[nn.Parameter, float] = {}
    for module in model.modules():
        if isinstance(module, ParametrizationList) and isinstance(module[0], Parts):
            factors |= {getattr(module, f"original{n}"): rate for n, rate in enumerate(module[0].rates)}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault((factors.get(parameter, 1.0), parameter in undecayed), []).append(parameter)
    ordered = sorted(groups.items(), key=lambda group: (group[0][0] != 1, *group[0]))
    return [
        {"params": parameters, "lr": learning_rate * rate} | ({"weight_decay": 0.0} if apart else {})
        for (rate, apart), parameters in ordered
    ]
