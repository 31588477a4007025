"""Sections of settings of the methods. Names and defaults are PEFT's, if PEFT has them.

Importing PEFT's own classes would take six seconds. A test compares these classes with PEFT's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from softprompts.errors import UserError, check_above_zero

# The key for the size of each parametrisation of a prompt, and the size in its paper.
SIZES = {"residual_mlp": ("bottleneck", 800), "low_rank": ("rank", 2), "superposition": ("sampled_embeddings", 128)}


@dataclass
class PromptConfig:
    """A soft prompt: PEFT's PromptTuningConfig, with more kinds of initial values.

    Args:
        num_virtual_tokens: length of the soft prompt.
        prompt_tuning_init: initial values: the embeddings of a text, of tokens sampled from the vocabulary, or random
            ones. By default a text, unless init_from or init_adapter is set.
        prompt_tuning_init_text: the text, for TEXT; by default made from the task's template and choices. A longer text
            is cut to num_virtual_tokens. With init_from: outputs or demonstrations, the text comes first.
        init_from: initial values in place of RANDOM. `uniform` samples from [-0.5, 0.5]; `frequent` samples embeddings
            of frequent tokens; `labels` uses the class labels, and frequent tokens if the prompt is longer (Lester et
            al. 2021, section 3.2). `normal` samples from a normal distribution with the vocabulary's mean and standard
            deviation in each dimension, as in section 7 there. `outputs` uses the embeddings of possible targets: the
            choices, or the names and values in the task's schema. `demonstrations` uses few-shot examples from train
            with different targets, as many as fit (Lu et al. 2025 start from random rows; Levy et al. 2023 choose
            examples that cover more of the output).
        init_labels: for `labels`, each with the space before the word; by default the task's choices.
        init_fill: filling for a text that is shorter than num_virtual_tokens: `repeat` repeats the text, `frequent`
            samples frequent tokens. The filling follows a text, but precedes demonstrations, which a row must follow.
        init_adapter: start from a trained soft prompt of the same length, on the same base model: the folder of an
            adapter or of its run, or a Hub id (Vu et al. 2022, "SPoT").
        init_any_base: accept that adapter if it was trained on a base model of another name.
        parametrization: the trainable parameters. `direct`: the embeddings themselves. `residual_mlp`: the embeddings,
            and a network whose output is added to them (Razdaibiedina et al. 2023). `low_rank`: a code of few
            dimensions per token, with one scale and one shift for all (Wu et al. 2025). `superposition`: weights of
            embeddings sampled from the vocabulary (Ali Sadraei Javaheri et al. 2024). All start at the same values, and
            all are saved as embeddings.
        bottleneck: width of the network of `residual_mlp`; by default 800.
        rank: dimensions of each code of `low_rank`; by default 2.
        sampled_embeddings: number of embeddings that `superposition` samples; by default 128.

    Raises:
        UserError: two kinds of initial values; labels that no setting uses, or none; a filling without a text; a size
            that is not above 0, or that the parametrisation does not have.
    """

    num_virtual_tokens: int = 20
    prompt_tuning_init: Literal["TEXT", "SAMPLE_VOCAB", "RANDOM"] | None = None
    prompt_tuning_init_text: str | None = None
    init_from: Literal["uniform", "frequent", "normal", "labels", "outputs", "demonstrations"] | None = None
    init_labels: list[str] | None = None
    init_fill: Literal["repeat", "frequent"] = "repeat"
    init_adapter: str | None = None
    init_any_base: bool = False
    parametrization: Literal["direct", "residual_mlp", "low_rank", "superposition"] = "direct"
    bottleneck: int | None = None
    rank: int | None = None
    sampled_embeddings: int | None = None

    def __post_init__(self) -> None:
        # Checked here, before any download.
        check_above_zero("prompt.num_virtual_tokens", self.num_virtual_tokens)
        for key in ("init_from", "init_adapter"):
            if getattr(self, key) is not None and self.prompt_tuning_init not in (None, "RANDOM"):
                raise UserError(
                    f"prompt.{key}: {getattr(self, key)} requires prompt_tuning_init: RANDOM, found "
                    f"{self.prompt_tuning_init}; set that, or {key} to null"
                )
        if self.init_labels is not None and self.init_from != "labels":
            raise UserError("prompt.init_labels: applies only to init_from: labels; set that, or init_labels to null")
        if self.init_labels is not None and not self.init_labels:
            raise UserError("prompt.init_labels: expected at least one label; null means the task's choices")
        for name, (key, _) in SIZES.items():
            value = getattr(self, key)
            if value is not None and self.parametrization != name:
                raise UserError(f"prompt.{key}: applies only to parametrization: {name}; set that, or {key} to null")
            check_above_zero(f"prompt.{key}", value)
        own_text = self.prompt_tuning_init in (None, "TEXT")
        reads_text = self.init_from in ("outputs", "demonstrations") if self.init_from else own_text
        _check_start("prompt", self, reads_text)

    @property
    def width(self) -> int:
        """The size of the parametrisation: the setting, or the size in its paper. `direct` has none."""
        key, default = SIZES[self.parametrization]
        given: int | None = getattr(self, key)
        return default if given is None else given


def _check_start(section: str, config: PromptConfig | PrefixConfig, reads_text: bool) -> None:
    """Check the keys that prompts and prefixes share; `reads_text`: whether the initial values come from a text."""
    if config.init_adapter is not None and config.init_from is not None:
        raise UserError(
            f"{section}.init_adapter: cannot be combined with init_from: {config.init_from}; set one of them to null"
        )
    if config.init_any_base and config.init_adapter is None:
        raise UserError(f"{section}.init_any_base: applies only to init_adapter; set that, or init_any_base to false")
    if config.init_fill != "repeat" and (config.init_adapter is not None or not reads_text):
        raise UserError(
            f"{section}.init_fill: {config.init_fill} requires a text for the initial values; set it to repeat, or "
            "init_from to outputs or demonstrations"
        )


@dataclass
class PrefixConfig:
    """A prefix: PEFT's PrefixTuningConfig, with more kinds of initial values. Those from a text are for decoders.

    Args:
        num_virtual_tokens: length of the prefix.
        init_text: start from the keys and values that the base model computes for this text (Li and Liang 2021, section
            7.4): several words, or a text file. A longer text is cut to num_virtual_tokens, as cartridges start from
            the first tokens of a long text (Eyuboglu et al. 2025). With init_from: outputs or demonstrations, it comes
            first. Without any of these, initial values are sampled from a normal distribution with standard deviation
            1.
        init_from: `instruction`, `outputs` and `demonstrations` also start from the keys and values of a text: the task
            in words, which is the default of prompts; possible targets, as choices or as names and values in the task's
            schema; or few-shot examples from train with different targets, as many as fit (Lu et al. 2025). `zero`
            starts at zero, as `init_weights: zero` does. `normal` samples from a normal distribution with the mean and
            standard deviation of the keys and values of train in each dimension.
        init_fill: filling for a text that is shorter than num_virtual_tokens: `repeat` repeats the text, `frequent`
            samples frequent tokens. The filling follows a text, but precedes demonstrations, which a row must follow.
        init_adapter: start from a trained prefix of the same length, on the same base model: the folder of an adapter
            or of its run, or a Hub id (Vu et al. 2022, "SPoT", does so with input prompts).
        init_any_base: accept that adapter if it was trained on a base model of another name.
        init_weights: `zero` starts at zero. This is not the same as no prefix: a key of zero has the score 0, so it
            takes a share of the attention from the text.
        prefix_projection: let a two-layer network compute the prefix (Li and Liang 2021, section 4.3).
        encoder_hidden_size: width of that network.
        parametrization: `scales` also learns one factor for the keys and one for the values of each layer; the products
            are saved. `direct` does not.
        key_rate: factor on training.learning_rate for keys; 0 keeps their initial values. Most of what a prefix learns
            is reported to be in its values ("keys as routers", arXiv 2508.17032).
        value_rate: the same factor for values.
        layer_rates: factors from the first layer to the last, one for each of as many groups of adjacent layers. [0, 1]
            trains only the upper half. They multiply key_rate and value_rate.
        frozen_first: number of virtual tokens that keep their initial values. Cartridges freeze one, which receives the
            attention that a model gives to a first token (Eyuboglu et al. 2025).

    Raises:
        UserError: two kinds of initial values; a text or an adapter together with a projection; a filling without a
            text; a width that is not above 0, or without a projection; rates below 0, or all of them 0; rates or scales
            together with a projection, or both together.
    """

    num_virtual_tokens: int = 20
    init_text: str | None = None
    init_from: Literal["instruction", "outputs", "demonstrations", "zero", "normal"] | None = None
    init_fill: Literal["repeat", "frequent"] = "repeat"
    init_adapter: str | None = None
    init_any_base: bool = False
    init_weights: Literal["zero"] | None = None
    prefix_projection: bool = False
    encoder_hidden_size: int | None = None
    parametrization: Literal["direct", "scales"] = "direct"
    key_rate: float = 1.0
    value_rate: float = 1.0
    layer_rates: list[float] | None = None
    frozen_first: int = 0

    def __post_init__(self) -> None:
        # Checked here, before any download.
        check_above_zero("prefix.num_virtual_tokens", self.num_virtual_tokens)
        starts = {"init_text": self.init_text, "init_from": self.init_from, "init_adapter": self.init_adapter}
        for key, value in starts.items():
            if value is None or (key == "init_from" and value == "zero"):
                continue
            if self.prefix_projection:
                raise UserError(
                    f"prefix.{key}: cannot be combined with prefix_projection, for the network cannot reproduce "
                    f"given keys and values; set {key} to null, or prefix_projection to false"
                )
            if self.init_weights == "zero":
                raise UserError(f"prefix.{key}: cannot be combined with init_weights: zero; set one of them to null")
        if self.init_text is not None and self.init_from not in (None, "outputs", "demonstrations"):
            raise UserError(
                f"prefix.init_from: {self.init_from} cannot be combined with init_text; set one of them to null"
            )
        if self.init_text is not None and self.init_adapter is not None:
            raise UserError("prefix.init_adapter: cannot be combined with init_text; set one of them to null")
        reads_text = self.init_text is not None or self.init_from in ("instruction", "outputs", "demonstrations")
        _check_start("prefix", self, reads_text)
        self._check_rates()
        check_above_zero("prefix.encoder_hidden_size", self.encoder_hidden_size)
        if self.encoder_hidden_size is not None and not self.prefix_projection:
            raise UserError(
                "prefix.encoder_hidden_size: applies only to prefix_projection: true; set that, or encoder_hidden_size "
                "to null"
            )
        rates = "key_rate, value_rate, layer_rates and frozen_first"
        if self.prefix_projection and not (self.parametrization == "direct" and self.one_rate):
            raise UserError(
                f"prefix.prefix_projection: cannot be combined with parametrization: scales or {rates}, because one "
                "network computes all keys and values; set it to false, or leave those out"
            )
        if self.parametrization == "scales" and not self.one_rate:
            raise UserError(
                f"prefix.parametrization: scales cannot be combined with {rates}, because a factor moves all keys or "
                "values of a layer; set it to direct, or leave those out"
            )

    def _check_rates(self) -> None:
        rates = {"key_rate": [self.key_rate], "value_rate": [self.value_rate], "layer_rates": self.layer_rates}
        for key, values in rates.items():
            if values is not None and not (values and all(value >= 0 for value in values)):
                raise UserError(f"prefix.{key}: expected 0 or more, found {getattr(self, key)}")
        if not (self.key_rate or self.value_rate) or not any(self.layer_rates or [1]):
            key = "layer_rates" if self.key_rate or self.value_rate else "value_rate"
            raise UserError(f"prefix.{key}: every rate is 0, so the prefix would not be trained; set one above 0")
        if self.frozen_first < 0:
            raise UserError(f"prefix.frozen_first: expected 0 or more, found {self.frozen_first}")
        if self.frozen_first and self.frozen_first >= (self.num_virtual_tokens or 0):
            raise UserError(
                f"prefix.frozen_first: {self.frozen_first} of {self.num_virtual_tokens} virtual tokens would leave "
                "none to train"
            )

    @property
    def one_rate(self) -> bool:
        """Whether the whole prefix is trained at training.learning_rate."""
        return self.key_rate == self.value_rate == 1 and not self.layer_rates and not self.frozen_first


@dataclass
class ContextConfig:
    """A few rows of train become a prefix, which is trained on these rows (context tuning, CT-KV; Lu et al. 2025).

    Args:
        demonstrations: number of rows of train, drawn by the run's seed as `hard.shots` draws them. Training uses only
            these rows.
        separator: text between two demonstrations, and before a row's own text.
        leave_one_out: in a step, hide from each row the positions of the prefix that come from itself.
        token_dropout: share of the prefix's positions that are hidden from a row in a step, drawn again each time.

    Raises:
        UserError: too few demonstrations; a share of dropout that is not from 0 to below 1.
    """

    demonstrations: int = 16
    separator: str = "\n\n"
    leave_one_out: bool = True
    token_dropout: float = 0.05

    def __post_init__(self) -> None:
        # Checked here, before any download.
        least = 2 if self.leave_one_out else 1
        if self.demonstrations < least:
            why = ": leave_one_out hides each from itself; set it to false for a single one" if least == 2 else ""
            raise UserError(f"context.demonstrations: expected {least} or more, found {self.demonstrations}{why}")
        if not 0 <= self.token_dropout < 1:
            raise UserError(f"context.token_dropout: expected 0 or more and below 1, found {self.token_dropout}")


@dataclass
class CPTConfig:
    """The embeddings of a few rows of train, changed within bounds (context-aware prompt tuning; Blau et al. 2024).

    The bounds have the names of PEFT's CPTConfig.

    Args:
        demonstrations: number of rows of train, drawn by the run's seed as `hard.shots` draws them. Training uses only
            these rows.
        separator: text between two demonstrations, and before a row's own text.
        opt_projection_epsilon: how far the embedding of a prompt's token may move, at a hidden size of 2048.
        opt_projection_format_epsilon: the same bound for the tokens of the separator.

    Raises:
        UserError: no demonstrations; a bound that is not above 0.
    """

    demonstrations: int = 16
    separator: str = "\n\n"
    opt_projection_epsilon: float = 0.1
    opt_projection_format_epsilon: float = 0.1

    def __post_init__(self) -> None:
        # Checked here, before any download.
        for key in ("demonstrations", "opt_projection_epsilon", "opt_projection_format_epsilon"):
            check_above_zero(f"cpt.{key}", getattr(self, key))


@dataclass
class EncoderConfig:
    """A prompt encoder of P-tuning: PEFT's PromptEncoderConfig.

    Args:
        num_virtual_tokens: length of the soft prompt that it computes.
        encoder_reparameterization_type: an MLP, or an LSTM followed by an MLP.
        encoder_hidden_size: width of the network; by default that of the base model.
        encoder_num_layers: layers of the LSTM.
        encoder_dropout: dropout of the LSTM.

    Raises:
        UserError: a size that is not above 0; a share of dropout that is not from 0 to below 1.
    """

    num_virtual_tokens: int = 20
    encoder_reparameterization_type: Literal["MLP", "LSTM"] = "MLP"
    encoder_hidden_size: int | None = None
    encoder_num_layers: int = 2
    encoder_dropout: float = 0.0

    def __post_init__(self) -> None:
        # Checked here, before any download.
        for key in ("num_virtual_tokens", "encoder_hidden_size", "encoder_num_layers"):
            check_above_zero(f"prompt.{key}", getattr(self, key))
        if not 0 <= self.encoder_dropout < 1:
            raise UserError(f"prompt.encoder_dropout: expected 0 or more and below 1, found {self.encoder_dropout}")


def _check_expressions(key: str, value: list[str] | dict[str, int] | str | None) -> None:
    """Raise `UserError` if a text, or a name in a dictionary, is no regular expression. A list has plain names."""
    for text in [value] if isinstance(value, str) else value if isinstance(value, dict) else ():
        try:
            re.compile(text)
        except re.error as error:
            raise UserError(
                f'{key}: "{text}" is not a regular expression: {error}; for example, ".*_proj" matches names that end '
                "in _proj"
            ) from None


@dataclass
class LoraConfig:
    """Low-rank matrices added to a model's weights: PEFT's LoraConfig, without options that change the base model.

    Args:
        r: rank.
        lora_alpha: the matrices' product is scaled by lora_alpha / r.
        lora_dropout: dropout of the matrices' input.
        target_modules: names of the layers that get matrices, a regular expression, or `all-linear`; by default PEFT's
            choice for the architecture.
        exclude_modules: names, or a regular expression, of layers that get none.
        bias: the biases that are trained.
        use_rslora: scale by lora_alpha / sqrt(r) (Kalajdzievski 2023).
        use_dora: split the weights into magnitude and direction (Liu et al. 2024).
        init_lora_weights: initial values of the matrices; `true` makes their product zero.
        layers_to_transform: numbers of the layers that get matrices.
        layers_pattern: name of the list of layers, for layers_to_transform.
        rank_pattern: ranks of layers by name or regular expression.
        alpha_pattern: values of lora_alpha by name or regular expression.
        fan_in_fan_out: the weights are stored as (in, out), as GPT-2's are.
        lora_bias: give the second matrix a bias.
        target_parameters: names of parameters that get matrices, for example of experts.
        trainable_token_indices: ids of tokens whose embeddings are trained.
        ensure_weight_tying: keep tied weights tied.

    Raises:
        UserError: a regular expression that is not valid.
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

    def __post_init__(self) -> None:
        # Checked here, before any download.
        for key in ("target_modules", "exclude_modules", "rank_pattern", "alpha_pattern"):
            _check_expressions(f"lora.{key}", getattr(self, key))


@dataclass
class IA3Config:
    """Learned factors for activations: PEFT's IA3Config.

    Args:
        target_modules: names of the layers that get factors, a regular expression, or `all-linear`; by default PEFT's
            choice for the architecture: keys, values and the last layer of the feed-forward network.
        exclude_modules: names, or a regular expression, of layers that get none.
        feedforward_modules: those of target_modules whose inputs are scaled; for the others the outputs are scaled.
        fan_in_fan_out: the weights are stored as (in, out), as GPT-2's are.
        init_ia3_weights: start at one; otherwise from N(0, 1), far from the base model.

    Raises:
        UserError: a regular expression that is not valid.
    """

    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    feedforward_modules: list[str] | str | None = None
    fan_in_fan_out: bool = False
    init_ia3_weights: bool = True

    def __post_init__(self) -> None:
        # Checked here, before any download.
        for key in ("target_modules", "exclude_modules", "feedforward_modules"):
            _check_expressions(f"ia3.{key}", getattr(self, key))


@dataclass
class MultitaskConfig:
    """Several tasks that share a source prompt. Names are those of PEFT's MultitaskPromptTuningConfig.

    Args:
        column: the column of the data that names a row's task.
        num_virtual_tokens: length of the shared prompt and of each task's prompt.
        num_ranks: rank of a task's factor.
        prompt_tuning_init: initial values of the shared prompt. Each task's prompt starts at the same values, because
            its factor is one.
        prompt_tuning_init_text: the text, for TEXT.
        factor_steps: steps that train only the factors, after the shared prompt is trained; 0 for none. All settings of
            `training` but the steps apply to them, including warmup_steps.

    Raises:
        UserError: a number of virtual tokens or ranks that is not above 0; a number of steps below 0.
    """

    column: str
    num_virtual_tokens: int = 20
    num_ranks: int = 1
    prompt_tuning_init: Literal["TEXT", "SAMPLE_VOCAB", "RANDOM"] = "TEXT"
    prompt_tuning_init_text: str | None = None
    factor_steps: int = 0

    def __post_init__(self) -> None:
        # Checked here, before any download.
        for key in ("num_virtual_tokens", "num_ranks"):
            check_above_zero(f"prompt.{key}", getattr(self, key))
        if self.factor_steps < 0:
            raise UserError(f"prompt.factor_steps: expected 0 or more, found {self.factor_steps}")


@dataclass
class HardPromptConfig:
    """Hard prompts, compared on validation. Nothing is trained.

    Args:
        wordings: prompt templates with `{column}` fields; the best on validation, by the first metric and then by loss,
            is scored on test.
        shots: number of few-shot examples from train in each prompt, drawn by the run's seed.
        separator: text between two examples.
        validation_rows: number of validation rows for the choice; by default all.
    """

    wordings: list[str]
    shots: int = 0
    separator: str = "\n\n"
    validation_rows: int | None = None
