"""The table of methods, for all code that lists, names, plots or checks methods.

A new method needs a line here, a module in `soft_prompts` or `baselines`, and a recipe and a config.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # code that reads the table may not need models
    from softprompts.models.loading import Kind

FIRST = "virtual tokens before an encoder's text would take the place of its first token"


@dataclass(frozen=True)
class Method:
    """A method.

    Args:
        name: name of its recipe and configs, and of its module in the folder `soft_prompts` or `baselines`, if it
            changes the model.
        label: name in tables and figures.
        what: `written` for hard prompts; `soft` for a soft prompt; `few` for a soft prompt that is made from a few
            rows and trained only on them; `weights` for a method that changes the model's weights; `factors` for one
            that scales its activations. The page of results is about hard prompts, soft prompts and weights.
        kinds: kinds of base models that it supports.
        section: the section of its own settings.
        peft: name of its config class in PEFT; empty without an adapter.
        trains: the trainable parameters, in words.
        saves: the saved parameters, in words.
        colour: from Okabe and Ito's palette, or from Paul Tol's if that is used up, for all kinds of colour vision.
        marker: matplotlib's marker, for readers who do not see colours.
        refusals: the reason for each kind that it does not support.
    """

    name: str
    label: str
    what: Literal["written", "soft", "few", "weights", "factors"]
    kinds: tuple[Kind, ...]
    section: str
    peft: str
    trains: str
    saves: str
    colour: str
    marker: str
    refusals: Mapping[Kind, str] = field(default_factory=lambda: MappingProxyType({}))

    def smallest(self) -> Callable[[Any, Any], Any]:
        """Return `smallest(base, settings)` of the method's module, which adds a small version of the method.

        `settings` may be None. A hard prompt does not change the model.
        """
        if self.what == "written":
            return lambda base, _: base
        folder = "soft_prompts" if self.what in ("soft", "few") else "baselines"
        module = importlib.import_module(f"softprompts.methods.{folder}.{self.name}")
        found: Callable[[Any, Any], Any] = module.smallest
        return found


TABLE = (
    Method(
        name="hard_prompt",
        label="hard prompt",
        what="written",
        kinds=("decoder", "encoder-decoder"),
        section="hard",
        peft="",
        trains="nothing",
        saves="nothing",
        colour="#999999",
        marker="X",
        refusals={"encoder": "an encoder generates no text, and its classifier must be trained"},
    ),
    Method(
        name="prompt_tuning",
        label="prompt tuning",
        what="soft",
        kinds=("decoder", "encoder-decoder"),
        section="prompt",
        peft="PromptTuningConfig",
        trains="embeddings of virtual tokens",
        saves="the same",
        colour="#0072B2",
        marker="o",
        refusals={"encoder": FIRST},
    ),
    Method(
        name="prefix_tuning",
        label="prefix tuning",
        what="soft",
        kinds=("decoder", "encoder"),
        section="prefix",
        peft="PrefixTuningConfig",
        trains="keys and values of every layer",
        saves="the same",
        colour="#56B4E9",
        marker="s",
        refusals={"encoder-decoder": "PEFT ignores a prefix when an encoder-decoder generates"},
    ),
    Method(
        name="context_tuning",
        label="context tuning",
        what="few",
        kinds=("decoder",),
        section="context",
        peft="PrefixTuningConfig",
        trains="keys and values of a few examples at every layer",
        saves="the same",
        colour="#882255",
        marker=">",
        refusals={
            "encoder": "it does not continue few-shot examples",
            "encoder-decoder": "PEFT ignores a prefix when an encoder-decoder generates",
        },
    ),
    Method(
        name="cpt",
        label="CPT",
        what="few",
        kinds=("decoder",),
        section="cpt",
        peft="CPTConfig",
        trains="the embeddings of a few examples, within a bound",
        saves="embeddings of virtual tokens",
        colour="#332288",
        marker="d",
        refusals={"encoder": FIRST, "encoder-decoder": "PEFT supports only decoders"},
    ),
    Method(
        name="p_tuning",
        label="P-tuning",
        what="soft",
        kinds=("decoder", "encoder-decoder"),
        section="prompt",
        peft="PromptEncoderConfig",
        trains="a network that computes the virtual tokens",
        saves="embeddings of virtual tokens",
        colour="#009E73",
        marker="^",
        refusals={"encoder": FIRST},
    ),
    Method(
        name="multitask_prompt_tuning",
        label="multitask prompt tuning",
        what="soft",
        kinds=("decoder",),
        section="prompt",
        peft="MultitaskPromptTuningConfig",
        trains="a shared prompt, and a low-rank factor for each task",
        saves="embeddings of virtual tokens, for each task",
        colour="#F0E442",
        marker="p",
        refusals={
            "encoder": "PEFT supports only decoders",
            "encoder-decoder": "PEFT's support works only for decoders",
        },
    ),
    Method(
        name="lora",
        label="LoRA",
        what="weights",
        kinds=("decoder", "encoder-decoder", "encoder"),
        section="lora",
        peft="LoraConfig",
        trains="low-rank matrices that are added to the weights",
        saves="the same",
        colour="#E69F00",
        marker="D",
    ),
    Method(
        name="ia3",
        label="IA3",
        what="factors",
        kinds=("decoder", "encoder-decoder", "encoder"),
        section="ia3",
        peft="IA3Config",
        trains="factors for keys, values and inner activations",
        saves="the same",
        colour="#999933",
        marker="<",
    ),
    Method(
        name="full_finetuning",
        label="full fine-tuning",
        what="weights",
        kinds=("decoder", "encoder-decoder", "encoder"),
        section="",
        peft="",
        trains="every weight",
        saves="the whole model",
        colour="#D55E00",
        marker="v",
    ),
)
METHODS = {method.name: method for method in TABLE}
