"""The sections of settings that recipes share: model, task, training, evaluation, run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from softprompts.errors import UserError, check_above_zero, nearest

# The trackers of accelerate. Importing accelerate for their names would take seconds.
TRACKERS = ("aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb")


@dataclass
class ModelConfig:
    """The frozen base model.

    Args:
        name_or_path: `bundled:NAME`, a folder with a saved model, or a Hub id.
        dtype: data type of the base model's weights; the soft prompt is always float32. `auto` selects bfloat16 if the
            device has instructions for it, else float32. The record names the type.
        quantization: load the weights in 4 bits (`nf4`) or 8 bits (`int8`) through bitsandbytes.
        revision: branch, tag or commit, for a Hub id.
        engine: the forward pass. `packed` computes the soft prompt once for several rows, without padding; `stock` is
            PEFT's own. `auto` uses `packed` if it matches `stock` on the first rows; otherwise it warns and uses
            `stock`.
        gradient_checkpointing: keep fewer activations for the backward pass and recompute them: less memory, more time.
    """

    name_or_path: str = "bundled:smollm2-135m-instruct"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    quantization: Literal["none", "nf4", "int8"] = "none"
    revision: str | None = None
    engine: Literal["auto", "packed", "stock"] = "auto"
    gradient_checkpointing: bool = False


@dataclass
class TaskConfig:
    """The data, the prompt template and the target.

    Args:
        prompt: the model's input, with `{column}` in place of a column's value, e.g. "{text}\\nSentiment:".
            `{translation[en]}` is a nested value. A list becomes "a, b", an empty list "none", an object JSON.
        target: the text that the model must write, as a template, e.g. " {label}". Begin it with the space before the
            word.
        dataset: `embedded:NAME` or a Hub id; leave it out if train, validation and test are files.
        subset: configuration of a Hub dataset.
        other_datasets: another Hub dataset for a split, as its id or ID:SUBSET, e.g. {test: "openai/gsm8k:main"}.
            `test` then names the split of that dataset; by default test.
        revision: branch, tag or commit of `dataset`, for a Hub id.
        train: file, folder, or pattern such as "data/*.jsonl". Files are .jsonl, .json, .csv, .tsv, .parquet or .arrow,
            and may be compressed (.gz, .zst, .bz2, .xz). Or a split of the dataset; the Hub also accepts a slice:
            "train[:1000]".
        validation: as train, for validation; by default 10 % of train is held out.
        test: as train, for test; by default 10 % of train is held out.
        choices: for classification: all targets as the template renders them; or a mapping from a rendered target to
            the words that represent it (a verbalizer); or `from_train`, the distinct targets of all rows of train.
            `from_train` reads them before rows are held out or limited by `max_rows`. Quote yes, no, true and numbers
            in YAML.
        streaming: read a Hub dataset over the network, shard by shard, as far as `max_rows` needs it. Only the rendered
            rows are kept, no copy. `max_rows` must name validation and test.
        rename: new names of columns, in each split that has them, e.g. {query: question}. All other keys refer to the
            new names.
        where: keep only rows whose column has one of these values, e.g. {domain: [movies]}.
        max_rows: most rows of a split, e.g. {test: 500}; the first rows are used.
        without: file with fingerprints of rows to leave out of every split, as `recipes/forget.py` writes it. Such
            rows do not count for `max_rows`. The record has their number and their fingerprints.
        metrics: names in src/softprompts/metrics/modules, or paths of `evaluate` modules.
        schema: file with a JSON Schema (draft 2020-12), or `embedded:NAME/schema.json`. Every target must be valid.
            Metrics of structured output check predictions with it.
        pii: personal data in rows, such as e-mail addresses and phone numbers: `keep` them, `mask` each value as
            <EMAIL_ADDRESS_1> in every split before rendering, or `refuse` a row that has any. Patterns find them, so
            names of people stay. `mask` and `refuse` need the extra `readiness`.
        metric_data: file with a JSON object that metrics read, or `embedded:NAME/FILE.json`. For a target it has
            further references (`references`), and terms that a prediction must mention (`mentions`).
        chat: put prompt and target into the tokenizer's chat template, as a user's message and its answer. The soft
            prompt precedes all of it, including the begin-of-sequence token and the system message.
        system: system message of the chat; by default the template's own.
        max_length: most tokens of prompt and target together. A longer row is an error; targets are never cut.
        long_rows: `error` refuses a longer row; `cut_prompt` cuts its prompt from the left.
        name: name of the task in records; by default the name of the dataset or of the train file.
    """

    prompt: str
    target: str
    dataset: str | None = None
    subset: str | None = None
    other_datasets: dict[str, str] = field(default_factory=dict)
    revision: str | None = None
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    choices: list[str] | dict[str, str] | Literal["from_train"] | None = None
    streaming: bool = False
    rename: dict[str, str] = field(default_factory=dict)
    where: dict[str, list[str]] = field(default_factory=dict)
    max_rows: dict[str, int] = field(default_factory=dict)
    without: str | None = None
    metrics: list[str] = field(default_factory=lambda: ["accuracy"])
    schema: str | None = None
    pii: Literal["keep", "mask", "refuse"] = "keep"
    metric_data: str | None = None
    chat: bool = False
    system: str | None = None
    max_length: int = 1024
    long_rows: Literal["error", "cut_prompt"] = "error"
    name: str | None = None


@dataclass
class TrainingConfig:
    """Length, speed and optimizer of training. One step is one update of the trained parameters.

    Args:
        steps: number of steps.
        learning_rate: peak learning rate of the optimizer.
        batch_size: rows per step, over all processes and accumulated micro-batches together.
        micro_batch_tokens: most tokens of text in one forward pass, if rows can be divided; by default the whole batch.
            The step is the same, except for other random numbers of dropout, and needs less memory.
        optimizer: AdamW; Adafactor (Shazeer and Stern 2018); or Muon (Jordan et al. 2024) for parameters of two
            dimensions, such as a soft prompt, with AdamW for all others. Muon's steps are scaled to the size of AdamW's
            (Liu et al. 2025), so that learning rates carry over. Those of Adafactor do not: PyTorch's scales a step by
            the root mean square of the parameter, and limits the rate to 1/sqrt(step).
        weight_decay: decoupled weight decay, not of biases, norms, and factors that are neutral at one.
        schedule: learning-rate schedule after the warm-up, as transformers names it. `constant_with_warmup` is another
            name of `constant`.
        warmup_steps: steps of linear warm-up, at most `steps`; every schedule has it.
        max_grad_norm: clip the gradient to this norm.
        ema: decay of an exponential moving average of the trained parameters, e.g. 0.98; 0 for none. The averaged
            values are validated, compared and saved. They are corrected for their start, as Adam's moments are.
        teacher: also learn this model's probabilities of the target tokens (Hinton et al. 2015). Give the folder of an
            adapter for the same base model, or of a whole model with the same tokenizer. For decoders.
        teacher_context: text that the teacher reads before each row and the student does not: several words, a text
            file, or shots:K, K few-shot examples from train, drawn by the run's seed. Without `teacher` the base model
            itself teaches. At weight 1 this puts a long text into a prefix (Eyuboglu et al. 2025).
        teacher_weight: weight of the divergence from the teacher in the loss, from 0 to 1; the targets have the rest.
            The token that ends an answer, and rows that are shots of the context, are trained on the target alone.
            At 0 there is no teacher.
        teacher_temperature: temperature of both distributions; above 1 they are flatter.
        teacher_any_base: accept a teacher's adapter that was trained on a base model of another name.
        eval_every: steps from one validation, and its checkpoint, to the next.
        eval_rows: rows of the validation split to validate on during training; by default all.
        best_by: criterion for the best checkpoint: `loss` on validation, or one of the task's metrics.
        patience: number of validations without improvement that ends training; by default none does.
        on_nan: action if the loss or its gradient is not finite: `stop`, or a factor above 0 and up to 1, such as
            0.5. With a factor, the training goes back to the last checkpoint with a finite validation loss and
            continues with the learning rate times the factor. It does so once; the second time, it stops.
        energy: estimate the energy of training with codecarbon (`pip install codecarbon`), offline.

    Raises:
        UserError: a number outside its range; more warm-up steps than steps; settings of a teacher without a teacher.
    """

    steps: int = 300
    learning_rate: float = 0.02
    batch_size: int = 16
    micro_batch_tokens: int | None = None
    optimizer: Literal["adamw", "adafactor", "muon"] = "adamw"
    weight_decay: float = 0.0
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    warmup_steps: int = 0
    max_grad_norm: float = 1.0
    ema: float = 0.0
    teacher: str | None = None
    teacher_context: str | None = None
    teacher_weight: float = 0.5
    teacher_temperature: float = 1.0
    teacher_any_base: bool = False
    eval_every: int = 50
    eval_rows: int | None = None
    best_by: str = "loss"
    patience: int | None = None
    on_nan: float | Literal["stop"] = "stop"
    energy: bool = False

    def __post_init__(self) -> None:
        # Checked here, before any download.
        above = ("steps", "batch_size", "micro_batch_tokens", "eval_every", "eval_rows", "patience")
        for key in (*above, "learning_rate", "max_grad_norm", "teacher_temperature"):
            check_above_zero(f"training.{key}", getattr(self, key))
        for key in ("warmup_steps", "weight_decay"):
            if not getattr(self, key) >= 0:
                raise UserError(f"training.{key}: expected 0 or more, found {getattr(self, key)}")
        # A run of ten steps, to try a config with a warm-up of ten, almost reaches the rate.
        if self.steps is not None and self.warmup_steps > self.steps:
            raise UserError(
                f"training.warmup_steps: expected at most training.steps ({self.steps}), found {self.warmup_steps}"
            )
        if not 0 <= self.ema < 1:
            raise UserError(f"training.ema: expected 0 or more and less than 1, found {self.ema}")
        if self.on_nan != "stop" and not 0 < self.on_nan <= 1:
            raise UserError(f"training.on_nan: expected stop, or a factor above 0 and up to 1; found {self.on_nan}")
        self._check_teacher()

    def _check_teacher(self) -> None:
        if not 0 <= self.teacher_weight <= 1:
            raise UserError(f"training.teacher_weight: expected 0 to 1, found {self.teacher_weight}")
        if self.teacher is None and self.teacher_context is None:
            for key in ("teacher_weight", "teacher_temperature", "teacher_any_base"):
                if getattr(self, key) != getattr(TrainingConfig, key):
                    raise UserError(
                        f"training.{key}: needs a teacher; set training.teacher or training.teacher_context"
                    )
        if self.teacher is None and self.teacher_any_base:
            raise UserError("training.teacher_any_base: is about an adapter; set training.teacher to its folder")

    @property
    def taught(self) -> bool:
        """Whether the settings name a teacher."""
        return self.teacher_weight != 0 and (self.teacher is not None or self.teacher_context is not None)


@dataclass
class EvaluationConfig:
    """The scoring of a trained adapter.

    Args:
        batch_size: rows per forward pass.
        max_new_tokens: most tokens of a generated prediction, for tasks without choices.
        bootstrap_resamples: number of resamples for each 95 % confidence interval.
        stop: texts that end a generated prediction, in addition to the end token; the prediction is cut before the
            first of them. For hard prompts, because the base model has not learned to end.
        abstain_below: for tasks with choices, a prediction with a probability below this becomes "abstain", and a
            person decides. `auto` takes the threshold at which the task's first metric is best on validation. None
            predicts a choice for every row.
        split: split that is scored at the end. Use `validation` while you still choose settings, so that the test rows
            choose nothing. A threshold of `auto` was then chosen on the scored rows, so the score is a little too high.

    Raises:
        UserError: a number outside its range; a stop text without a character other than spaces.
    """

    batch_size: int = 32
    max_new_tokens: int = 128
    bootstrap_resamples: int = 2000
    stop: list[str] = field(default_factory=list)
    split: Literal["train", "validation", "test"] = "test"
    abstain_below: float | Literal["auto"] | None = None

    def __post_init__(self) -> None:
        # Checked here, and not after hours of training.
        for key in ("batch_size", "max_new_tokens", "bootstrap_resamples"):
            check_above_zero(f"evaluation.{key}", getattr(self, key))
        if self.abstain_below not in (None, "auto") and not 0 < float(self.abstain_below) <= 1:
            raise UserError(
                f"evaluation.abstain_below: expected auto, or more than 0 and at most 1, found {self.abstain_below}"
            )
        if not all(text.strip(" ") for text in self.stop):
            raise UserError(f"evaluation.stop: an empty text, or only spaces, would end every prediction: {self.stop}")


@dataclass
class RunConfig:
    """The folder of a run, its seed and its trackers.

    Args:
        output_dir: folder for adapter, record, predictions, curves and checkpoints. It must be new or empty. In all
            paths, `~`, `$VAR` and `${VAR}` are expanded.
        seed: seed of initial values, order of rows and drawn examples.
        resume: continue the run in output_dir (short: `--resume`); a finished run stays as it is. Only settings of
            evaluation, and settings that change numbers only by rounding, may differ from before.
        trackers: trackers of accelerate, e.g. tensorboard, wandb, mlflow.
        process_timeout: seconds that the processes of a launch wait for one that does not respond, before all end.

    Raises:
        UserError: a seed or a timeout outside its range; an unknown tracker.
    """

    output_dir: str
    seed: int = 0
    resume: bool = False
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])
    process_timeout: float = 1800.0

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:  # the range of NumPy's generators
            raise UserError(f"run.seed: expected a number from 0 to 4294967295, found {self.seed}")
        check_above_zero("run.process_timeout", self.process_timeout)
        for tracker in self.trackers:
            if tracker not in TRACKERS:
                raise UserError(f'run.trackers: unknown tracker "{tracker}"{nearest(tracker, TRACKERS)}')
