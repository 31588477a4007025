"""Facts about a loaded base model in addition to weights and config: identity, settings, meaning of outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from softprompts.config.sections import ModelConfig
from softprompts.models.identity.base_model import Identity
from softprompts.models.identity.outputs import outputs_of

from peft import PeftModel
from torch import nn
from transformers import PretrainedConfig


@dataclass
class Facts:
    """Facts about a base model. They are empty if this project did not load it.

    Args:
        identity: the identity of the base model.
        config: the settings of its loading.
        new_parts: modules with random weights, which must be trained: an encoder's new classifier.
        choices: the task's choices, in the order of the targets' numbers; empty if the targets are open.
        choice_outputs: the classifier's output of each choice.
        kept: whether switching off the adapter restores the loaded weights and layers.
    """

    identity: Identity | None = None
    config: ModelConfig | None = None
    new_parts: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    choice_outputs: tuple[int, ...] = ()
    kept: bool = True

    @property
    def new_classifier(self) -> bool:
        """Whether the new parts include a classifier; a pooler alone is not one."""
        return bool(set(self.new_parts) - {"pooler"})

    @property
    def own_labels(self) -> bool:
        """Whether the base model came with a classifier, whose labels are then part of its identity."""
        return bool(self.choice_outputs) and not self.new_classifier


ATTRIBUTE = "_softprompts_facts"  # of the model itself, so that a copy of the model has a copy of its facts


def facts_of(model: nn.Module) -> Facts:
    """Return the facts of a base model, or of a PEFT model's base model. `copy.deepcopy` of a model copies them."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    facts: Facts = vars(base).setdefault(ATTRIBUTE, Facts())
    return facts


def name_outputs(
    model: Any, choices: Sequence[str], names: Sequence[str] | None = None, whose: str | None = None
) -> None:
    """Match the outputs of an encoder's classifier with the choices, by name, as `choice_outputs`.

    Args:
        model: the encoder. The config names the outputs of its own classifier; the outputs of a new one get their names
            here.
        choices: the task's choices, in the order of the targets' numbers.
        names: the outputs' names in an adapter's classifier; by default the choices.
        whose: owner of the names for the message; by default the model.

    Raises:
        UserError: the outputs have other names than the choices.
    """
    facts = facts_of(model)
    if facts.new_classifier:
        own = [name.strip() for name in names or choices]
        model.config.id2label = dict(enumerate(own))
        model.config.label2id = {name: number for number, name in enumerate(own)}
    facts.choices = tuple(choices)
    found = outputs_of(choices, names or output_names(model.config), whose or str(model.name_or_path))
    facts.choice_outputs = tuple(found)


def output_names(config: PretrainedConfig) -> list[str]:
    """Return the names of a classifier's outputs in a config, in their order."""
    labels: Any = config.id2label
    return [str(labels.get(number, f"LABEL_{number}")) for number in range(len(labels))]
