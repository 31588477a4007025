"""Launch files of accelerate with a changed key or value, and the environment that a launch makes from them."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import mutations
from helpers import ROOT

import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env

FILES = sorted((ROOT / "configs" / "accelerate").glob("*.yaml"))
VALUES: dict[str, list[Any]] = {
    "mixed_precision": ["no", "fp16", "bf16", "fp8"],
    "distributed_type": ["NO", "FSDP", "DEEPSPEED", "MULTI_GPU", "MULTI_CPU", "XLA", "MEGATRON_LM"],
    "use_cpu": [True, False],
    "num_machines": [1, 2],
    "gpu_ids": ["all", "0", "5"],
    "debug": [True],
    "enable_cpu_affinity": [True],
    "num_cpu_threads_per_process": [0, 1, 64],
    "dynamo_config": [{"dynamo_backend": "EAGER"}, {"dynamo_backend": "NO"}, {"dynamo_mode": "default"}],
    "fsdp_config": [{"fsdp_version": 1}, {"fsdp_version": 2, "fsdp_offload_params": True}, {"fsdp_version": 3}],
    "deepspeed_config": [{"zero_stage": 3}, {"gradient_accumulation_steps": 4}],
}
# The variables that a launcher sets in a launch of one process.
ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
ALONE |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}  # any free one: several cases run at the same time
ODD: dict[str, list[str]] = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ["0", "2", "x"],
    "ACCELERATE_USE_CPU": ["yes", "maybe", ""],
    "ACCELERATE_MIXED_PRECISION": ["fp8", "fp16", "x", ""],
    "ACCELERATE_USE_FSDP": ["true", "x"],
    "ACCELERATE_DYNAMO_BACKEND": ["x"],
}


def drawn(rng: random.Random, file: Path) -> dict[str, str]:
    """Write a changed launch file, and return the variables that it sets; accelerate may refuse the file.

    For a launch of several processes, only the first one is drawn.
    """
    tree = yaml.safe_load(rng.choice(FILES).read_text(encoding="utf-8"))
    for key in rng.sample(sorted(VALUES), rng.choice([0, 1, 1, 2])):
        tree[key] = rng.choice(VALUES[key])
    if rng.random() < 0.3:
        key = rng.choice(sorted(tree))
        tree[key] = mutations.odd(rng, key)
    mutations.write_yaml(tree, file)
    before = dict(os.environ)
    try:
        arguments = launch_command_parser().parse_args(["--config_file", str(file), "recipe.py"])
        arguments, *_ = _validate_launch_command(arguments)
        several = arguments.multi_gpu or arguments.use_fsdp or arguments.use_deepspeed
        made = prepare_multi_gpu_env(arguments) if several else prepare_simple_launcher_cmd_env(arguments)[1]
    except (Exception, SystemExit):
        made = {}
    finally:
        os.environ.clear()
        os.environ.update(before)
    own = {key: str(value) for key, value in made.items() if before.get(key) != value and "\0" not in str(value)}
    own |= ALONE if rng.random() < 0.5 else {}
    if rng.random() < 0.3:
        key = rng.choice(sorted(ODD))
        own[key] = rng.choice(ODD[key])
    own.pop("OMP_NUM_THREADS", None)  # threads of a fork
    return own
