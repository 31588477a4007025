"""All uses of PEFT, transformers, PyTorch and bitsandbytes beyond their public interfaces.

A new version may change any of these without notice. Each function has a test in tests/models/test_peft_compat.py, so
that an upgrade breaks only this file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, cast

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.utils import AuxiliaryTrainingWrapper
from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel
from transformers.distributed import DistributedConfig


def attention_name(model: Any) -> str:
    """Return the name of the attention in a model's text layers, for example sdpa.

    Args:
        model: a model of transformers, or its config. A config may name code on the Hub, or None.
    """
    return str(getattr(model, "config", model)._attn_implementation)


def eager_attention(module: nn.Module) -> Callable[..., Any]:
    """Return the plain attention of an attention layer's model, because transformers does not register it."""
    found: Callable[..., Any] = sys.modules[type(module).__module__].eager_attention_forward
    return found


def forget_gguf(config: Any) -> None:
    """Remove from a config the quantisation and the path that transformers records when it reads a GGUF file."""
    del config.quantization_config, config._model_name_or_path


def has_bfloat16_instructions() -> bool:
    """Return whether the processor has instructions for multiplying bfloat16 matrices."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def keep_four_bit_weights(model: nn.Module) -> None:
    """Keep the 4-bit weights of a model in a form that supports gradients.

    On processors with AVX512-BF16, the first forward pass without a gradient, for example in validation, would repack
    them into a form without a backward pass.
    """
    modules: Iterable[Any] = model.modules()
    for module in modules:
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.support_avx512bf16_for_cpu = False


def changes_of(parameters: Iterable[torch.Tensor]) -> int:
    """Return the number of in-place changes of tensors, which PyTorch counts for its gradients.

    Tensors made in inference mode do not count, nor do changes by a fused optimizer.
    """
    return sum(p._version for p in parameters if not p.is_inference())


@contextmanager
def on_building(change: Callable[[PreTrainedModel], None]) -> Iterator[dict[str, Any]]:
    """Within this context `from_pretrained` changes a model once it is built, before it reads any weights.

    The model is then on PyTorch's meta device. Weights that `change` has turned into DTensors are read in shards: each
    process reads its own rows. That is transformers' own way of loading for FSDP, which would shard the embeddings and
    the whole model as well. Yields arguments of `from_pretrained`.
    """

    def changed(cls: type[PreTrainedModel], model: PreTrainedModel, *_: Any) -> PreTrainedModel:
        change(model)
        model._is_distributed_loading_by_transformers = True
        del model.config.distributed_config
        return model

    cls: Any = PreTrainedModel
    own = cls.__dict__.get("maybe_distribute_model")
    cls.maybe_distribute_model = classmethod(changed)
    flag = "FSDP_CPU_RAM_EFFICIENT_LOADING"
    before = os.environ.pop(flag, None)  # with it all processes but the first would read nothing
    try:
        yield {"distributed_config": DistributedConfig()}
    finally:
        if before is not None:
            os.environ[flag] = before
        if own is None:
            del cls.maybe_distribute_model
        else:
            cls.maybe_distribute_model = own


def peft_model(base: PreTrainedModel, config: PeftConfig) -> PeftModel:
    """Return a PEFT model over a base model. The type of `get_peft_model` allows other kinds."""
    return cast(PeftModel, get_peft_model(base, config))


class LimitedNumbers(TorchDispatchMode):
    """Within this context PyTorch makes tensors of at most `most` numbers in all, apart from those made from tensors.

    A size is known before its memory is allocated. A tensor beyond the limit raises `ValueError`.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.made = most, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        settings = kwargs or {}
        new = any(argument.name == "device" for argument in func._schema.arguments)
        if new and not any(isinstance(argument, torch.Tensor) for argument in args):
            # On this device tensors have sizes, but no memory.
            without = {"device": "meta"} | ({"generator": None} if "generator" in settings else {})
            with suppress(NotImplementedError):
                self.made += func(*args, **settings | without).numel()
            if self.made > self.most:
                raise ValueError(f"it needs {self.made:,} numbers or more in memory; at most {self.most:,} are allowed")
        return func(*args, **settings)


def as_loaded(model: PeftModel, tensors: Mapping[str, torch.Tensor], adapter: str) -> dict[str, torch.Tensor]:
    """Return an adapter's tensors by PEFT's names in a model, for adapters of any version."""
    found: dict[str, torch.Tensor] = convert_peft_adapter_state_dict_for_transformers(
        model, model.peft_config[adapter], dict(tensors), adapter
    )
    return found


def encoder_of(model: PeftModel) -> Any:
    """Return the PEFT module that has, or computes, a model's soft prompt."""
    return model.prompt_encoder[model.active_adapter]


@contextmanager
def without_prompt(model: Any) -> Iterator[None]:
    """Within this context, an encoder's soft prompt and its classifier are off.

    PEFT's own `disable_adapter` requires methods of generation, which an encoder does not have, and does not switch off
    the classifier.
    """
    wrappers = [module for module in model.modules() if isinstance(module, AuxiliaryTrainingWrapper)]
    model.forward, model._adapters_disabled = model.base_model.forward, True
    try:
        for wrapper in wrappers:
            wrapper.enable_adapters(False)
        yield
    finally:
        for wrapper in wrappers:
            wrapper.enable_adapters(True)
        del model.forward
        model._adapters_disabled = False
