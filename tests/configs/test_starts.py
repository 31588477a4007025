"""Starts from texts, with the bundled tokenizer and the whole task: they fit into the virtual tokens of every config.

A screen of the study trains its candidates together, so one start that does not fit ends all of them.
"""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.study.settings import ScreenConfig, StudyConfig, config_of
from helpers import ROOT
from softprompts.config.sections import TaskConfig
from softprompts.methods.catalog import METHODS
from softprompts.methods.initial_text import initial_text
from softprompts.models.bundled import resolve
from softprompts.tasks.task import Task, load_task

import pytest
import torch
import yaml
from transformers import AutoTokenizer, PreTrainedTokenizerBase

pytestmark = [pytest.mark.slow, pytest.mark.bundled, pytest.mark.xdist_group("starts")]  # they share tasks
TEXTS = ("instruction", "outputs", "demonstrations")
SEEDS = (5, 100)  # the first one found no row of docstrings


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(resolve("bundled:smollm2-135m-instruct"))
    return found


@cache
def task_of(file: str) -> Task:
    return load_task(TaskConfig(**yaml.safe_load((ROOT / file).read_text("utf-8"))["task"]))


def starts(settings: dict[str, Any], varied: dict[str, list[Any]]) -> list[tuple[str, str, int, str | None]]:
    """Return section, source, number of virtual tokens and text of each start from a text."""
    found = []
    for section, key in (("prompt", "prompt_tuning_init_text"), ("prefix", "init_text")):
        own = settings.get(section, {})
        sources = varied.get(f"{section}.init_from", [own.get("init_from")])
        counts = varied.get(f"{section}.num_virtual_tokens", [own.get("num_virtual_tokens", 20)])
        found += [(section, s, c, own.get(key)) for s, c in itertools.product(sources, counts) if s in TEXTS]
    return found


def planned() -> list[Any]:
    found: dict[tuple[Any, ...], str] = {}  # equal starts once
    for file in sorted((ROOT / "configs" / "study").glob("*.yaml")):
        made = yaml.safe_load(file.read_text("utf-8"))["study"]
        study = StudyConfig({name: ScreenConfig(**s) for name, s in made.pop("screens").items()}, **made)
        for name, screen in study.screens.items():
            config = f"configs/{name.split('/')[0]}/{screen.recipe}.yaml"
            for start in starts(config_of(study, name, Path("nowhere")), screen.grid):
                found.setdefault((config, *start), f"{name}-{start[1]}-{start[2]}")
    for file in sorted(path for name in METHODS for path in (ROOT / "configs").glob(f"*/*{name}.yaml")):
        settings = yaml.safe_load(file.read_text("utf-8"))
        if "training" in settings and str(settings.get("task", {}).get("dataset", "")).startswith("embedded:"):
            config = str(file.relative_to(ROOT))
            for start in starts(settings, {}):
                found.setdefault((config, *start), f"{config}-{start[1]}-{start[2]}")
    return [pytest.param(*start, id=name) for start, name in found.items()]


@pytest.mark.parametrize(("config", "section", "source", "count", "text"), planned())
def test_a_start_from_a_text_fits(config: str, section: str, source: str, count: int, text: str | None) -> None:
    for seed in SEEDS if source == "demonstrations" else SEEDS[:1]:
        torch.manual_seed(seed)
        assert initial_text(source, task_of(config), tokenizer(), count, first=text, section=section)
