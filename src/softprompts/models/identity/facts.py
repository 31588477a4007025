"""What is known of a base model beside its weights and config: how it was loaded, and what its outputs mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from softprompts.config.sections import ModelConfig
from softprompts.models.identity.base_model import Identity
from softprompts.models.identity.outputs import outputs_of

from peft import PeftModel
from torch import nn
from transformers import PretrainedConfig


@dataclass
class Facts:
    """What is known of a base model; of one that this project did not load, nothing.

    Args:
        identity: which base model it is.
        config: the settings that it was loaded by.
        new_parts: modules that have random weights as loaded, and have to be trained: an encoder's new classifier.
        choices: an encoder's, in the order of the targets' numbers.
        choice_outputs: which output of the classifier each choice has.
        kept: whether its weights and layers are still those that were loaded, with an adapter on it that is off.
    """

    identity: Identity | None = None
    config: ModelConfig | None = None
    new_parts: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    choice_outputs: tuple[int, ...] = ()
    kept: bool = True

    @property
    def new_classifier(self) -> bool:
        """Whether a classifier is among the new parts; a pooler alone is none."""
        return bool(set(self.new_parts) - {"pooler"})

    @property
    def own_labels(self) -> bool:
        """Whether the base model came with a classifier, whose labels then are a part of what it is."""
        return bool(self.choice_outputs) and not self.new_classifier


_FACTS: WeakKeyDictionary[nn.Module, Facts] = WeakKeyDictionary()


def facts_of(model: nn.Module) -> Facts:
    """Return what is known of a base model, or of the one that a PEFT model is over; a copy of a model has none."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return _FACTS.setdefault(base, Facts())


def name_outputs(
    model: Any, choices: Sequence[str], names: Sequence[str] | None = None, whose: str | None = None
) -> None:
    """Bind the outputs of an encoder's classifier to the choices: `choice_outputs` is the order to read.

    Args:
        model: the encoder. A classifier that it came with has its outputs' names in the config; those of a new one are
            named here.
        choices: the task's, in the order of the targets' numbers.
        names: what the outputs of a classifier mean that an adapter brings; by default the choices.
        whose: what brings it, for the message; by default the model.

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
    """Return what a config calls the outputs of a classifier, in their order."""
    labels: Any = config.id2label
    return [str(labels.get(number, f"LABEL_{number}")) for number in range(len(labels))]
