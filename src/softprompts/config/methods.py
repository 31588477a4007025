"""Sections of settings that belong to a method. Names and defaults are PEFT's, if PEFT has them.

PEFT's own classes would serve as well, but importing them takes six seconds. A test compares these with PEFT's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from softprompts.errors import UserError


@dataclass
class PromptConfig:
    """A soft prompt: PEFT's PromptTuningConfig, and the ways to start of Lester et al. (2021), section 3.2.

    Args:
        num_virtual_tokens: length of the soft prompt.
        prompt_tuning_init: begin with the embeddings of a text, of tokens drawn from the vocabulary, or at random; by
            default with a text, unless init_from says otherwise.
        prompt_tuning_init_text: the text, for TEXT; by default made of the task's template and choices. It is cut or
            repeated to num_virtual_tokens.
        init_from: in place of RANDOM. `uniform` draws from [-0.5, 0.5]; `frequent` draws embeddings of frequent tokens;
            `labels` takes those of the class labels, and frequent ones if the prompt is longer.
        init_labels: for `labels`, with the space that stands before a word; by default the task's choices.

    Raises:
        UserError: two ways to start; labels that nothing reads, or none.
    """

    num_virtual_tokens: int = 20
    prompt_tuning_init: Literal["TEXT", "SAMPLE_VOCAB", "RANDOM"] | None = None
    prompt_tuning_init_text: str | None = None
    init_from: Literal["uniform", "frequent", "labels"] | None = None
    init_labels: list[str] | None = None

    def __post_init__(self) -> None:
        # Now, and not after a download.
        if self.init_from is not None and self.prompt_tuning_init not in (None, "RANDOM"):
            raise UserError(
                f"prompt.init_from: {self.init_from} not with prompt_tuning_init: {self.prompt_tuning_init}; "
                "set that to RANDOM, or init_from to null"
            )
        if self.init_labels is not None and self.init_from != "labels":
            raise UserError("prompt.init_labels: are for init_from: labels; set that, or init_labels to null")
        if self.init_labels is not None and not self.init_labels:
            raise UserError("prompt.init_labels: expected at least one label; null takes the task's choices")


@dataclass
class PrefixConfig:
    """A prefix: PEFT's PrefixTuningConfig, and a text to start from.

    Args:
        num_virtual_tokens: length of the prefix.
        init_text: begin with the keys and values that the base model computes of this text; it is cut or repeated to
            num_virtual_tokens. Without it they begin at random, or at zero with `init_weights: zero`.
        init_weights: `zero` begins at zero.
        prefix_projection: let a two-layer network write the prefix (Li and Liang 2021, section 4.3).
        encoder_hidden_size: width of that network.

    Raises:
        UserError: a text together with a projection, or with zeros; a projection without a width.
    """

    num_virtual_tokens: int = 20
    init_text: str | None = None
    init_weights: Literal["zero"] | None = None
    prefix_projection: bool = False
    encoder_hidden_size: int | None = None

    def __post_init__(self) -> None:
        # Now, and not after a download.
        if self.init_text is not None and self.prefix_projection:
            raise UserError(
                "prefix.init_text: not with prefix_projection: keys and values cannot be put back through the network; "
                "set init_text to null, or prefix_projection to false"
            )
        if self.init_text is not None and self.init_weights == "zero":
            raise UserError("prefix.init_text: not with init_weights: zero; set one of them to null")


@dataclass
class EncoderConfig:
    """A prompt encoder of P-tuning: PEFT's PromptEncoderConfig.

    Args:
        num_virtual_tokens: length of the soft prompt that it writes.
        encoder_reparameterization_type: an MLP, or an LSTM with an MLP behind it.
        encoder_hidden_size: width of the network; by default that of the base model.
        encoder_num_layers: layers of the LSTM.
        encoder_dropout: dropout of the LSTM.
    """

    num_virtual_tokens: int = 20
    encoder_reparameterization_type: Literal["MLP", "LSTM"] = "MLP"
    encoder_hidden_size: int | None = None
    encoder_num_layers: int = 2
    encoder_dropout: float = 0.0


@dataclass
class LoraConfig:
    """Low-rank matrices beside a model's weights: PEFT's LoraConfig, without what changes the base model.

    Args:
        r: rank.
        lora_alpha: the matrices' product is scaled by lora_alpha / r.
        lora_dropout: dropout in front of the matrices.
        target_modules: names of the layers that get matrices, a regular expression, or `all-linear`; by default what
            PEFT takes for the architecture.
        exclude_modules: names, or a regular expression, of layers that get none.
        bias: which biases train.
        use_rslora: scale by lora_alpha / sqrt(r) (Kalajdzievski 2023).
        use_dora: split the weights into magnitude and direction (Liu et al. 2024).
        init_lora_weights: how the matrices begin; `true` with a product of zero.
        layers_to_transform: numbers of the layers that get matrices.
        layers_pattern: name of the list of layers, for layers_to_transform.
        rank_pattern: ranks of layers by name or regular expression.
        alpha_pattern: values of lora_alpha, likewise.
        fan_in_fan_out: the weights are stored as (in, out), as GPT-2's are.
        lora_bias: give the second matrix a bias.
        target_parameters: names of parameters, of experts say, that get matrices.
        trainable_token_indices: numbers of tokens whose embeddings train.
        ensure_weight_tying: keep tied weights tied.
    """

    r: int = 8
    lora_alpha: int = 8
    lora_dropout: float = 0.0
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    bias: Literal["none", "all", "lora_only"] = "none"
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: bool | Literal["gaussian", "orthogonal"] = True
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, int] = field(default_factory=dict)
    fan_in_fan_out: bool = False
    lora_bias: bool = False
    target_parameters: list[str] | None = None
    trainable_token_indices: list[int] | None = None
    ensure_weight_tying: bool = False


@dataclass
class MultitaskConfig:
    """Several tasks that share a source prompt. Names are those of PEFT's MultitaskPromptTuningConfig.

    Args:
        column: the column of the data that names a row's task.
        num_virtual_tokens: length of the shared prompt, and so of each task's.
        num_ranks: rank of a task's factor.
        prompt_tuning_init: how the shared prompt begins; each task's begins as it does, with a factor of one.
        prompt_tuning_init_text: the text, for TEXT.
        factor_steps: updates of the factors alone, once the shared prompt is trained; 0 for none.
    """

    column: str
    num_virtual_tokens: int = 20
    num_ranks: int = 1
    prompt_tuning_init: Literal["TEXT", "SAMPLE_VOCAB", "RANDOM"] = "TEXT"
    prompt_tuning_init_text: str | None = None
    factor_steps: int = 0


@dataclass
class SweepConfig:
    """Candidates of one method: every combination of the values in `grid`. Validation chooses among them.

    Soft prompts train side by side over one base model. LoRA and full fine-tuning change the base model's weights:
    their candidates train one after another.

    Args:
        grid: values of each key that varies, e.g. {training.learning_rate: [0.01, 0.02], run.seed: [0, 1]}. Any key
            of the method's section and of training may, and run.seed; the best on validation is kept.
        method: what trains; its settings are in the section `prompt`, `prefix`, `encoder` (P-tuning) or `lora`.
        reduction_factor: successive halving (Jamieson and Talwalkar 2016; Li et al. 2018): after 1/8, 1/4 and 1/2 of
            the updates, say, the best 1/reduction_factor of the candidates go on. By default all train to their end.
        extensions: as long as the best value of a number is the largest or the smallest tried, one more candidate is
            tried beyond it, so many times at most. A new one goes on as long as it is among the best
            1/reduction_factor of all that came as far (Li et al. 2020).
    """

    grid: dict[str, list[str | int | float | bool | None]]
    method: str = "prompt_tuning"
    reduction_factor: int | None = None
    extensions: int = 0

    def __post_init__(self) -> None:
        if self.reduction_factor is not None and self.reduction_factor < 2:
            raise UserError(
                f"sweep.reduction_factor: expected 2 or more, found {self.reduction_factor}; null lets all train on"
            )
        if self.extensions < 0:
            raise UserError(f"sweep.extensions: expected 0 or more, found {self.extensions}")


@dataclass
class HardPromptConfig:
    """Written prompts, tried on validation as they are.

    Args:
        wordings: prompt templates with `{column}` fields; the best on validation is scored on test.
        shots: solved examples from train in front of every row, drawn by the run's seed.
        separator: what stands between two examples.
        validation_rows: rows of the validation split to choose on; by default all.
    """

    wordings: list[str]
    shots: int = 0
    separator: str = "\n\n"
    validation_rows: int | None = None
