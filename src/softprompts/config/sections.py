"""The sections of settings that recipes share: model, task, training, evaluation, run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from softprompts.errors import UserError, check_above_zero, nearest

# Those of accelerate, which takes seconds to import.
TRACKERS = ("aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb")


@dataclass
class ModelConfig:
    """The frozen base model.

    Args:
        name_or_path: `bundled:NAME`, a folder with a saved model, or a Hub id.
        dtype: type of the base model's weights; the soft prompt itself is always float32. `auto` is bfloat16 where the
            device has instructions for it, else float32; the record says which it was.
        quantization: load the weights in 4 bits (`nf4`) or 8 bits (`int8`) through bitsandbytes.
        revision: branch, tag or commit, for a Hub id.
        engine: the forward pass. `packed` computes the soft prompt once for several rows and pads nothing; `stock`
            is PEFT's own; `auto` takes `packed` where it agrees with `stock` on the first rows, and says where not.
        gradient_checkpointing: keep less for the backward pass and compute it again: less memory, more time.
    """

    name_or_path: str = "bundled:smollm2-135m-instruct"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    quantization: Literal["none", "nf4", "int8"] = "none"
    revision: str | None = None
    engine: Literal["auto", "packed", "stock"] = "auto"
    gradient_checkpointing: bool = False


@dataclass
class TaskConfig:
    """A task is data, a prompt template and a target.

    Args:
        prompt: what the model reads, with `{column}` where a column's value goes, e.g. "{text}\\nSentiment:";
            `{translation[en]}` is a value inside one. A list reads "a, b", an empty one "none", an object as JSON.
        target: what it shall write, likewise, e.g. " {label}"; begin it with the space before the word.
        dataset: `embedded:NAME`, a Hub id, or nothing where train, validation and test are files.
        subset: configuration of a Hub dataset.
        other_datasets: for a split that comes from another Hub dataset: its id, and `:SUBSET` behind it where it has
            one, e.g. {test: "openai/gsm8k:main"}. `test` then names the split there; by default test.
        revision: branch, tag or commit of `dataset`, where that is a Hub id.
        train: file, folder, or pattern such as "data/*.jsonl". Files are .jsonl, .json, .csv, .tsv, .parquet or
            .arrow, and may be packed (.gz, .zst, .bz2, .xz). Or a split of the dataset, for the Hub with a slice:
            "train[:1000]".
        validation: likewise; without it a tenth of train is held out.
        test: likewise; without it a tenth of train is held out.
        choices: for classification: all targets as the template renders them; a mapping from a rendered target
            to the words for it (a verbalizer); or `from_train`, the distinct targets of all rows given as train,
            before any are held out or `max_rows` takes the first ones. Quote yes, no, true and numbers in YAML.
        rename: new names of columns, in each split that has them, e.g. {query: question}; all else sees the new ones.
        where: keep only rows whose column reads as one of these values, e.g. {domain: [movies]}.
        max_rows: at most so many rows of a split (the first ones), e.g. {test: 500}.
        metrics: names in src/softprompts/metrics/modules, or paths of `evaluate` modules.
        schema: file with a JSON Schema (draft 2020-12), or `embedded:NAME/schema.json`. Every target must keep to it;
            metrics of structured output check answers with it.
        chat: put prompt and target into the tokenizer's chat template, as a user's message and its answer. The soft
            prompt stands in front of all of it, the begin-of-sequence token and the system message included.
        system: system message of the chat; by default that of the template.
        max_length: tokens of prompt and target together. A longer row is an error, never a cut target.
        long_rows: what to do with a longer row: stop (`error`), or cut its prompt from the left (`cut_prompt`).
        name: name of the task in records; by default that of the dataset or of the train file.
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
    rename: dict[str, str] = field(default_factory=dict)
    where: dict[str, list[str]] = field(default_factory=dict)
    max_rows: dict[str, int] = field(default_factory=dict)
    metrics: list[str] = field(default_factory=lambda: ["accuracy"])
    schema: str | None = None
    chat: bool = False
    system: str | None = None
    max_length: int = 1024
    long_rows: Literal["error", "cut_prompt"] = "error"
    name: str | None = None


@dataclass
class TrainingConfig:
    """How long and how fast to train. One step is one update of the soft prompt.

    Args:
        steps: number of updates.
        learning_rate: peak rate of the optimizer.
        batch_size: rows an update sees, over all processes and accumulated micro-batches together.
        micro_batch_tokens: most tokens of text in one forward pass, as far as rows can be parted; by default the whole
            batch. The update is the same, the memory less.
        optimizer: AdamW; Adafactor as in Lester et al. (2021); or Muon (Jordan et al. 2024) for parameters of two
            dimensions, such as a soft prompt, with AdamW for all others. Muon's updates are scaled to the size of
            AdamW's (Liu et al. 2025), so that learning rates carry over.
        weight_decay: decoupled weight decay.
        schedule: learning-rate schedule, as transformers names it.
        warmup_steps: updates of linear warm-up.
        max_grad_norm: clip the gradient to this norm.
        ema: decay of an exponential moving average of the parameters that train, e.g. 0.98; 0 for none. The averaged
            values are validated, chosen among and saved. They are corrected for their start, as Adam's moments are.
        teacher: learn what this model says of the target tokens as well (Hinton et al. 2015): the folder of an adapter
            for the same base model, or of a whole model with the same tokenizer. For decoders.
        teacher_context: what the teacher reads before each row and the student does not: a text of several words, a
            text file, or shots:K, K solved rows of train drawn by the run's seed. Without `teacher` the base model
            itself teaches. A long text at weight 1 is put into a prefix so (Eyuboglu et al. 2025).
        teacher_weight: of the divergence from the teacher in the loss, from 0 to 1; that of the targets is the rest.
            At 0 there is no teacher.
        teacher_temperature: of both distributions; above 1 they are flatter.
        teacher_any_base: take an adapter as the teacher that was trained on a base model of another name.
        eval_every: validate and save a checkpoint every so many updates.
        eval_rows: rows of the validation split to validate on during training; by default all.
        best_by: what chooses the best checkpoint: `loss` on validation, or one of the task's metrics.
        patience: stop after so many validations without improvement; by default never.
        on_nan: what to do if the loss or its gradient is not finite: `stop`, or a factor above 0 and up to 1, such as
            0.5. With a factor, the training goes back to the last checkpoint with a finite validation loss and
            continues with the learning rate times the factor. It does so once; the second time, it stops.
        energy: estimate what training draws with codecarbon (`pip install codecarbon`), offline.
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
        # Now, and not after a download.
        above = ("steps", "batch_size", "micro_batch_tokens", "eval_every", "eval_rows", "patience")
        for key in (*above, "learning_rate", "max_grad_norm", "teacher_temperature"):
            check_above_zero(f"training.{key}", getattr(self, key))
        for key in ("warmup_steps", "weight_decay"):
            if not getattr(self, key) >= 0:
                raise UserError(f"training.{key}: expected 0 or more, found {getattr(self, key)}")
        if (
            self.steps is not None and self.warmup_steps > self.steps
        ):  # the rate would never reach training.learning_rate
            raise UserError(
                f"training.warmup_steps: expected training.steps, which is {self.steps}, or less; "
                f"found {self.warmup_steps}"
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
                        f"training.{key}: there is no teacher; name one in training.teacher, or teacher_context"
                    )

    @property
    def taught(self) -> bool:
        """Whether a teacher is asked for."""
        return self.teacher_weight != 0 and (self.teacher is not None or self.teacher_context is not None)


@dataclass
class EvaluationConfig:
    """How a trained adapter is scored.

    Args:
        batch_size: rows of one forward pass.
        max_new_tokens: longest answer generated, where the task has no choices.
        bootstrap_resamples: resamples behind each 95 % interval.
        stop: texts that end a written answer, beside the token that does: what stands from the first of them on is cut
            off. For written prompts, which teach the model no such token.
        split: rows that are scored at the end; `validation` as long as settings are still being chosen, so that test
            has no say in it.
    """

    batch_size: int = 32
    max_new_tokens: int = 128
    bootstrap_resamples: int = 2000
    stop: list[str] = field(default_factory=list)
    split: Literal["train", "validation", "test"] = "test"

    def __post_init__(self) -> None:
        # Now, and not after hours of training.
        for key in ("batch_size", "max_new_tokens", "bootstrap_resamples"):
            check_above_zero(f"evaluation.{key}", getattr(self, key))
        if not all(text.strip(" ") for text in self.stop):
            raise UserError(f"evaluation.stop: an empty text, or spaces alone, would end every answer: {self.stop}")


@dataclass
class RunConfig:
    """Where a run lives.

    Args:
        output_dir: folder for adapter, record, predictions, curves and checkpoints. It must be new or empty. Here as
            in every path, `~`, `$VAR` and `${VAR}` are expanded.
        seed: seed of initial values, order of rows and drawn examples.
        resume: go on where the run in output_dir stands (`--resume` for short); a finished run is left as it is. Only
            settings of evaluation, and those that change numbers by rounding alone, may be others than before.
        trackers: trackers of accelerate, e.g. tensorboard, wandb, mlflow.
        process_timeout: seconds that the processes of a launch wait for one that does not respond, before all end.
    """

    output_dir: str
    seed: int = 0
    resume: bool = False
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])
    process_timeout: float = 1800.0

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:  # NumPy's generators take no other
            raise UserError(f"run.seed: expected a number from 0 to 4294967295, found {self.seed}")
        check_above_zero("run.process_timeout", self.process_timeout)
        for tracker in self.trackers:
            if tracker not in TRACKERS:
                raise UserError(f'run.trackers: unknown tracker "{tracker}"{nearest(tracker, TRACKERS)}')
