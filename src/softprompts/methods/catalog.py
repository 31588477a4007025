"""The one table of methods: code that lists, names, draws or checks methods reads it here.

A new method is a line here, a module in `soft_prompts` or `baselines`, and a recipe and a config of its name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # the table is read by what needs no model
    from softprompts.models.loading import Kind

FIRST = "virtual tokens in front of an encoder's text would take the place of its first token"


@dataclass(frozen=True)
class Method:
    """A method, named like its recipe.

    Args:
        name: of its recipe and of its configs, and of its module if it changes the model. The module is in the folder
            `soft_prompts` or `baselines`.
        label: in tables and figures.
        what: `written`; `soft` for a soft prompt; `few` for one that is made of a handful of rows, and trained on no
            other; `weights` for a method that changes the model's weights; `factors` for one that multiplies its
            activations. The page of results is about written and soft prompts and weights.
        kinds: of base model that it is for.
        section: of the settings that are the method's own.
        peft: name of the class in PEFT that describes it; empty without an adapter.
        trains: the parameters that get a gradient, in words.
        saves: the parameters that an adapter holds, in words.
        colour: of Okabe and Ito's palette, or Paul Tol's where that is used up: told apart with any kind of colour
            vision.
        marker: of matplotlib, for who sees no colour.
        refusals: the reason for each other kind.
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
        """Return `smallest(base, settings)` of the method's module: it puts the method on a model, as small as it goes.

        `settings` may be None. A written prompt leaves the model as it is.
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
        refusals={"encoder": "an encoder writes nothing: its classifier has to be trained"},
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
        refusals={"encoder-decoder": "PEFT's prefix is not read when an encoder-decoder writes"},
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
            "encoder": "it continues no examples",
            "encoder-decoder": "PEFT's prefix is not read when an encoder-decoder writes",
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
        refusals={"encoder": FIRST, "encoder-decoder": "PEFT has it for decoders"},
    ),
    Method(
        name="p_tuning",
        label="P-tuning",
        what="soft",
        kinds=("decoder", "encoder-decoder"),
        section="prompt",
        peft="PromptEncoderConfig",
        trains="a network that writes the virtual tokens",
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
        trains="a shared prompt, and a low-rank factor of it for each task",
        saves="embeddings of virtual tokens, for each task",
        colour="#F0E442",
        marker="p",
        refusals={
            "encoder": "PEFT has it for decoders",
            "encoder-decoder": "PEFT has it for decoders, as far as it works",
        },
    ),
    Method(
        name="lora",
        label="LoRA",
        what="weights",
        kinds=("decoder", "encoder-decoder", "encoder"),
        section="lora",
        peft="LoraConfig",
        trains="low-rank matrices beside the weights",
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
        trains="factors of keys, values and inner activations",
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
