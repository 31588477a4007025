"""The sections of methods have PEFT's names, defaults and types; omitted settings of PEFT are listed here."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, get_type_hints

from softprompts.config.methods import (
    CPTConfig,
    EncoderConfig,
    IA3Config,
    LoraConfig,
    MultitaskConfig,
    PrefixConfig,
    PromptConfig,
)
from softprompts.config.yaml_files import PEFT_INTERNAL_FIELDS
from softprompts.errors import UserError

import peft
import pytest

# Ours: names that PEFT does not have, with their purpose.
OURS = {
    *("init_from", "init_labels", "init_text", "init_fill", "init_adapter", "init_any_base", "column", "factor_steps"),
    *("parametrization", "bottleneck", "rank", "sampled_embeddings"),
    *("key_rate", "value_rate", "layer_rates", "frozen_first"),
    *("demonstrations", "separator"),
}
# Defaults that differ on purpose. PEFT's null for a length means that it is required.
OTHER_DEFAULTS = {"num_virtual_tokens", "prompt_tuning_init"}
LEFT_OUT = {
    # Multitask prompt tuning: the library counts the tasks, and has its own initial prompts.
    "num_tasks": "as many as the data has",
    "prompt_tuning_init_state_dict_path": "a start from another run's weights",
    "prompt_tuning_init_task": "the same",
    # CPT: the library makes the tokens of rows, and its loss is only on a row's own target.
    "num_virtual_tokens": "as many as the demonstrations have",
    "cpt_token_ids": "of the demonstrations",
    "cpt_mask": "the same",
    "cpt_tokens_type_mask": "the same",
    "opt_weighted_loss_type": "of the loss on the soft prompt's own targets",
    "opt_loss_decay_factor": "the same",
    # LoRA: settings that change the base model's weights or structure, or need data, GPUs or formats that recipes lack.
    "megatron_config": "Megatron",
    "megatron_core": "Megatron",
    "loftq_config": "changes the base model's weights",
    "eva_config": "needs data to begin with",
    "corda_config": "needs data to begin with",
    "lora_ga_config": "needs data to begin with",
    "velora_config": "of one optimizer",
    "alora_invocation_tokens": "works from a token on that our prompts do not hold",
    "use_qalora": "GPTQ",
    "qalora_group_size": "GPTQ",
    "monteclora_config": "draws at every pass",
    "layer_replication": "changes the base model's layers",
    "runtime_config": "of inference",
    "use_bdlora": "of several devices",
    "arrow_config": "routes between several LoRAs",
    "kasa_config": "changes the base model's weights",
}
PAIRS = [
    (PromptConfig, peft.PromptTuningConfig),
    (PrefixConfig, peft.PrefixTuningConfig),
    (EncoderConfig, peft.PromptEncoderConfig),
    (MultitaskConfig, peft.MultitaskPromptTuningConfig),
    (LoraConfig, peft.LoraConfig),
    (IA3Config, peft.IA3Config),
    (CPTConfig, peft.CPTConfig),
]


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (
            PrefixConfig,
            {"encoder_hidden_size": 512},
            "prefix.encoder_hidden_size: applies only to prefix_projection: true",
        ),
        (
            PrefixConfig,
            {"encoder_hidden_size": 0, "prefix_projection": True},
            "prefix.encoder_hidden_size: expected a num",
        ),
        (EncoderConfig, {"encoder_hidden_size": 0}, "prompt.encoder_hidden_size: expected a number above 0, found 0"),
        (EncoderConfig, {"encoder_hidden_size": -8}, "prompt.encoder_hidden_size: expected a number above 0, found -8"),
        (EncoderConfig, {"num_virtual_tokens": 0}, "prompt.num_virtual_tokens: expected a number above 0, found 0"),
        (EncoderConfig, {"encoder_num_layers": 0}, "prompt.encoder_num_layers: expected a number above 0, found 0"),
        (EncoderConfig, {"encoder_dropout": 1.5}, "prompt.encoder_dropout: expected 0 or more and below 1, found 1.5"),
    ],
)
def test_sizes_of_networks_are_checked(make: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        make(**settings)


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (LoraConfig, {"target_modules": "*_proj"}),
        (LoraConfig, {"exclude_modules": "(q_proj"}),
        (LoraConfig, {"rank_pattern": {"*_proj": 4}}),
        (LoraConfig, {"alpha_pattern": {"q[": 4}}),
        (IA3Config, {"target_modules": "*_proj"}),
        (IA3Config, {"feedforward_modules": "*_proj"}),
    ],
)
def test_regular_expressions_are_checked(make: Any, settings: dict[str, Any]) -> None:
    section = "lora" if make is LoraConfig else "ia3"
    with pytest.raises(
        UserError, match=rf'^{section}\.{next(iter(settings))}: ".*" is not a regular expression: .*; for'
    ):
        make(**settings)
    make(target_modules=["*_proj"])


def default(item: Any) -> Any:
    found = item.default if item.default_factory is MISSING else item.default_factory()
    return getattr(found, "value", found)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=lambda kind: kind.__name__)
def test_names_and_defaults_are_pefts(ours: type, theirs: type) -> None:
    known = {f.name: f for f in fields(theirs) if f.init}
    for item in fields(ours):
        if item.name in OURS:
            assert item.name not in known
        elif item.name not in OTHER_DEFAULTS:
            assert default(item) == default(known[item.name]), item.name


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=lambda kind: kind.__name__)
def test_what_is_left_out_of_pefts_is_known(ours: type, theirs: type) -> None:
    mine = {f.name for f in fields(ours)}
    missing = {f.name for f in fields(theirs) if f.init} - mine - PEFT_INTERNAL_FIELDS
    assert missing <= LEFT_OUT.keys(), "a new field of PEFT's: take it up, or say why not"


def test_what_is_left_out_is_pefts() -> None:
    theirs = {f.name for _, kind in PAIRS for f in fields(kind)}
    assert LEFT_OUT.keys() <= theirs


@pytest.mark.parametrize("ours", [ours for ours, _ in PAIRS])
def test_every_field_is_documented(ours: type) -> None:
    named = [line.strip().partition(":")[0] for line in (ours.__doc__ or "").splitlines() if ":" in line]
    assert set(get_type_hints(ours)) <= set(named)
