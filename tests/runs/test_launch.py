"""Ways to launch that recipes refuse, each with advice."""

from __future__ import annotations

from softprompts.errors import UserError
from softprompts.runs.launch import FSDP, Supported, check_launch, variable_in

import pytest

GOOD = {each.variable: each.values[0] for each in FSDP if each.values}


def test_a_launch_without_sharding_is_not_asked_for_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "true")
    check_launch()


def test_a_launch_that_is_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    for variable, value in GOOD.items():
        monkeypatch.setenv(variable, value.upper())
    check_launch()


@pytest.mark.parametrize("setting", FSDP, ids=lambda each: each.key)
def test_another_value_is_refused_by_its_key(setting: Supported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    for variable, value in GOOD.items():
        monkeypatch.setenv(variable, value)
    other = "fp16" if setting.key == "mixed_precision" else "other"
    monkeypatch.setenv(setting.variable, other)
    with pytest.raises(UserError, match=rf"^{setting.key}: {other} is not supported with FSDP; (set it|leave it out)"):
        check_launch()


def test_accelerates_default_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match=r"^fsdp_version: 1 is not supported with FSDP; set it to 2"):
        check_launch()


@pytest.mark.parametrize("name", ["DEEPSPEED", "MEGATRON_LM"])
def test_other_ways_to_shard_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(UserError, match=f"^distributed_type: {name} is not supported; launch with .*fsdp2.yaml"):
        check_launch()


def test_the_variable_with_a_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "x")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "maybe")
    monkeypatch.setenv("FSDP_VERSION", "")
    assert variable_in("'X' is not a valid DynamoBackend") == "ACCELERATE_DYNAMO_BACKEND, or its key in the launch file"
    assert variable_in("invalid truth value maybe") == "ACCELERATE_USE_CPU, or its key in the launch file"
    assert variable_in("something else") == "the launch file"
