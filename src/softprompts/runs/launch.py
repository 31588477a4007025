"""How a run was launched, as far as recipes support only some ways: read before anything is built."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from softprompts.errors import UserError, listed, nearest

from accelerate.utils import PrecisionType


@dataclass(frozen=True)
class Supported:
    """The allowed values of an environment variable that `accelerate launch` sets, and the advice for other values.

    variable: name of the variable; key: its key in a launch file; values: the allowed values, in lower case; instead:
    the advice; default: the value if the variable is not set.
    """

    variable: str
    key: str
    values: tuple[str, ...]
    instead: str
    default: str | None = None


FSDP = (
    Supported("FSDP_VERSION", "fsdp_version", ("2",), "set it to 2, as configs/accelerate/fsdp2.yaml does", "1"),
    Supported(
        "ACCELERATE_MIXED_PRECISION",
        "mixed_precision",
        ("no",),
        "set it to no, and model.dtype to the type of the weights",
    ),
    Supported(
        "FSDP_ACTIVATION_CHECKPOINTING",
        "fsdp_activation_checkpointing",
        ("false",),
        "set it to false, and model.gradient_checkpointing to true",
    ),
    Supported(
        "FSDP_OFFLOAD_PARAMS", "fsdp_offload_params", ("false",), "set it to false: the shards stay on their device"
    ),
    Supported(
        "FSDP_AUTO_WRAP_POLICY",
        "fsdp_auto_wrap_policy",
        ("transformer_based_wrap",),
        "set it to TRANSFORMER_BASED_WRAP, which shards layers",
    ),
    Supported(
        "FSDP_TRANSFORMER_CLS_TO_WRAP",
        "fsdp_transformer_layer_cls_to_wrap",
        (),
        "leave it out: transformers knows the layers of each model",
    ),
    Supported("FSDP_IGNORED_MODULES", "fsdp_ignored_modules", (), "leave it out: only layers are sharded"),
    Supported(
        "FSDP_STATE_DICT_TYPE",
        "fsdp_state_dict_type",
        ("full_state_dict",),
        "leave it out: checkpoints are whole, for any number of processes",
    ),
    Supported(
        "FSDP_CPU_RAM_EFFICIENT_LOADING",
        "fsdp_cpu_ram_efficient_loading",
        ("true",),
        "leave it out: each process reads only its own rows of the weights",
    ),
)
PREFIXES = ("ACCELERATE_", "FSDP_")
OTHERS = {"ACCELERATE_USE_DEEPSPEED": "DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM": "MEGATRON_LM"}


def variable_in(message: str) -> str:
    """Return the variables of this launch whose values a message of accelerate mentions, or where to look for them."""
    found = [
        name
        for name, value in sorted(os.environ.items())
        if name.startswith(PREFIXES) and value and re.search(rf"\b{re.escape(value)}\b", message, re.IGNORECASE)
    ]
    return f"{listed(found)}, or its key in the launch file" if found else "the launch file"


def check_launch() -> None:
    """Raise `UserError` for a launch with settings of `accelerate launch` that recipes do not support."""
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION") or "no"
    if precision.lower() not in PrecisionType.list():  # accelerate would ignore it
        raise UserError(
            f'launch: no mixed precision "{precision}"{nearest(precision, PrecisionType.list())}; '
            f"correct {variable_in(precision)}"
        )
    for variable, name in OTHERS.items():
        if os.environ.get(variable, "false").lower() == "true":
            raise UserError(
                f"distributed_type: {name} is not supported; launch with configs/accelerate/fsdp2.yaml, which shares "
                "out the base model, or multi_gpu.yaml, which keeps a whole one on each GPU"
            )
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return
    for each in FSDP:
        value = os.environ.get(each.variable, each.default)
        if value is not None and value.lower() not in each.values:
            raise UserError(f"{each.key}: {value} is not supported with FSDP; {each.instead}")
