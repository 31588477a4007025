"""Distillation: the student learns a teacher's distribution over the target tokens, with or without the targets."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from softprompts.adapters.configs import read_config
from softprompts.adapters.loading import find_adapter, find_model, load_adapter, virtual_tokens
from softprompts.config.methods import HardPromptConfig
from softprompts.config.sections import ModelConfig, TrainingConfig
from softprompts.config.tools import AdapterConfig
from softprompts.data.sources import SPLITS
from softprompts.encoding.documents import Document, EncodedTask, Example, digest_of_tokens, lengths_of
from softprompts.encoding.row_tokens import RowTooLongError
from softprompts.encoding.tokenization import encode
from softprompts.engine.batches import common_head
from softprompts.engine.build import make_engine
from softprompts.engine.forward import Engine
from softprompts.engine.padded import Scores
from softprompts.errors import UserError, settings_named
from softprompts.evaluation.hard_prompts import draw_shots
from softprompts.methods.attach import attach, set_start
from softprompts.methods.preflight import refusal
from softprompts.methods.soft_prompts.prefix_tuning import keys_and_values
from softprompts.models.identity.facts import facts_of
from softprompts.models.identity.settings import other_parts
from softprompts.models.identity.weights import sample_of
from softprompts.models.loading import input_spec, kind_of, load_base_model
from softprompts.system.files import text_or_file
from softprompts.tasks.task import Task, with_prompt

import torch
from peft import MultitaskPromptTuningConfig, PeftModel, PrefixTuningConfig
from torch.nn import functional
from transformers import PreTrainedModel

SHOTS = re.compile(r"shots:(\d+)", re.ASCII)
SEPARATOR = HardPromptConfig([]).separator  # between a context and the row, as between solved examples
CHECKED_ROWS = 8
# Names in this section of the settings of other sections.
OWN_KEYS = {
    "adapter.path": "training.teacher",
    "adapter.any_base": "training.teacher_any_base",
    "model.name_or_path": "training.teacher",
    "hard.shots": "training.teacher_context",
}


@dataclass(frozen=True)
class TaughtDocument(Document):
    """A student's document, and the `lesson` for the teacher: the same target after the teacher's own prompt.

    shown: whether the teacher's context holds this row, or an equal one, with its target.
    """

    lesson: Document | None = None
    shown: bool = False


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A model whose probabilities a student learns; it computes without a gradient.

    engine: the teacher's engine; train: the student's rows of train as the teacher reads them, in the same order; head:
    number of first tokens that all rows share, which the engine keeps as a prefix; shown: numbers of the rows that are
    examples in the teacher's context, or equal to one; ends: token ids that end an answer; weight: weight of the
    distillation in the loss, from 0 to 1; temperature: temperature of both distributions; fingerprint: identifies the
    teacher.
    """

    engine: Engine
    train: Sequence[Example]
    head: int
    shown: frozenset[int]
    ends: tuple[int, ...]
    weight: float
    temperature: float
    fingerprint: dict[str, str]

    def lessons(self, documents: Sequence[Document], rows: Sequence[int]) -> list[Document]:
        """Return the student's documents of these rows of train, each with its lesson."""
        return [
            TaughtDocument(
                d.prompt_ids,
                d.target_ids,
                d.soft_prompt,
                Document(self.train[n].document.prompt_ids[self.head :], d.target_ids),
                n in self.shown,
            )
            for d, n in zip(documents, rows, strict=True)
        ]

    @torch.no_grad()
    def logits(self, documents: Sequence[Document]) -> torch.Tensor:
        """Return the teacher's logits (T, V) at the targets of documents from `lessons`."""
        read = [d.lesson for d in documents if isinstance(d, TaughtDocument) and d.lesson]
        logits: torch.Tensor = self.engine(read).logits
        return logits

    def weights(self, scores: Scores, documents: Sequence[Document]) -> torch.Tensor:
        """Return the weight of the distillation at each target token, (T,).

        It is 0 where a teacher has nothing to teach: at the token that ends an answer, which a base model does not
        write, and in rows whose target the teacher reads in its context. There the loss is the NLL alone.
        """
        device = scores.targets.device
        shown = torch.tensor([isinstance(d, TaughtDocument) and d.shown for d in documents], device=device)
        untaught = torch.isin(scores.targets, torch.tensor(self.ends, device=device)) | shown[scores.document]
        return self.weight * (~untaught).to(scores.logits.dtype)


def distillation(
    scores: Scores, teacher: torch.Tensor, weight: float | torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return the loss of each target token, (T,), in nats: (1 - weight) x NLL + weight x temperature^2 x KL.

    KL is the divergence of the student's distribution from the teacher's, both at the temperature. The square of the
    temperature compensates for gradients that shrink with it (Hinton et al. 2015, section 2).

    Args:
        scores: the student's scores.
        teacher: the teacher's logits (T, V) at the same target tokens.
        weight: weight of the divergence, from 0 to 1; one number, or one for each token (T,).
        temperature: temperature of both distributions, above 0.
    """
    student, taught = ((logits / temperature).log_softmax(-1) for logits in (scores.logits, teacher))
    divergence = functional.kl_div(student, taught, reduction="none", log_target=True).sum(-1)
    return (1 - weight) * scores.nll() + weight * temperature**2 * divergence


def load_teacher(
    engine: Engine, data: EncodedTask, training: TrainingConfig, *, seed: int, say: Callable[[str], None]
) -> Teacher | None:
    """Return the teacher that `training` names; None if it names none.

    The teacher shares the student's base model if neither of them changes it; else the base model is loaded again.

    Args:
        engine: the student's engine.
        data: the student's rows.
        training: settings that name the teacher.
        seed: seed of the few-shot examples that are drawn for a context.
        say: function that reports a line of warning.

    Raises:
        UserError: the student is not a decoder; adapter or model does not exist; the adapter has several tasks;
            tokenizer or vocabulary differs; the teacher has no room for a row; a context is empty or too long, or its
            file is missing; as `load_adapter`, `load_base_model`, `make_engine`.
    """
    if not training.taught:
        return None
    if (kind := kind_of(engine.base.config)) != "decoder":
        key = "teacher" if training.teacher else "teacher_context"
        raise UserError(
            f"training.{key}: only a decoder can be taught, and the base model is an {kind}; set it to null"
        )
    with settings_named(OWN_KEYS):
        model = _load(engine, training)
    train, head, weights, shown = data.train, 0, _digest(model), frozenset[int]()
    if training.teacher_context is None:
        _check_room(data, model, training)
    else:
        train, shown = _in_context(data.task, model, engine, training.teacher_context, seed)
        if engine.packed:  # PEFT's own forward pass would copy a prefix for each row
            model, head = _with_head(model, train)
    checked = [
        replace(e, document=Document(e.document.prompt_ids[head:], e.document.target_ids)) for e in train[:CHECKED_ROWS]
    ]
    key = "training.teacher" if training.teacher else "training.teacher_context"
    own = make_engine(
        model,
        engine.tokenizer,
        config=ModelConfig(engine="auto" if engine.packed else "stock"),
        data=EncodedTask(data.task, checked, [], [], data.ends),
        say=lambda text: say(text.replace("model.engine: using stock", f"{key}: the teacher uses stock", 1)),
    )
    return Teacher(
        engine=own,
        train=train,
        head=head,
        shown=shown,
        ends=data.ends,
        weight=training.teacher_weight,
        temperature=training.teacher_temperature,
        fingerprint={"weights": weights, "rows": digest_of_tokens(train), "untaught": "ends, shown rows"},
    )


def _check_room(data: EncodedTask, model: Any, training: TrainingConfig) -> None:
    """Raise `UserError` if a row is too long for a teacher with more virtual tokens than its student."""
    room, longest = input_spec(model, virtual_tokens(model)).room, max(lengths_of(data.train))
    if room is not None and longest > room:
        raise UserError(
            f"training.teacher: the longest row has {longest} tokens, and {training.teacher} leaves room for {room}; "
            "lower task.max_length"
        )


def _load(engine: Engine, training: TrainingConfig) -> PreTrainedModel | PeftModel:
    """Return the teacher's model, frozen."""
    path = training.teacher
    whole = find_model(path) if path else None
    if whole:
        return _same_vocabulary(_load_again(engine, str(whole)), engine.base)
    settings = read_config(find_adapter(path)) if path else None
    if isinstance(settings, MultitaskPromptTuningConfig) and (settings.num_tasks or 1) > 1:
        raise UserError(
            f"training.teacher: {path} has {settings.num_tasks} tasks, and a teacher has one; write the soft prompt of "
            "one task with recipes/export.py (export.to peft, adapter.task_id), and name that"
        )
    config = AdapterConfig(path, training.teacher_any_base)
    alike = all(_keeps_base(m.active_peft_config) for m in engine.bank if isinstance(m, PeftModel))
    alike = alike and isinstance(engine.model, PeftModel)
    shared = alike and (settings is None or _keeps_base(settings))
    return load_adapter(engine.base if shared else _load_again(engine), config)


def _keeps_base(config: Any) -> bool:
    """Return whether an adapter does not change the weights and layers of its base model."""
    return bool(config.is_prompt_learning)


def _load_again(engine: Engine, path: str | None = None) -> PreTrainedModel:
    """Load the student's base model a second time, or another model with the same settings."""
    config = facts_of(engine.base).config
    if config is None:
        raise UserError("training.teacher: the base model must be loaded again, so load it with `load_base_model`")
    if path:
        config = replace(config, name_or_path=path, revision=None)
    model, _ = load_base_model(config, engine.device)
    return model


def _same_vocabulary(model: PreTrainedModel, base: Any) -> PreTrainedModel:
    """Return a whole model; raise `UserError` if its tokens differ from those of the student's base model."""
    identities = [facts_of(m).identity for m in (base, model)]
    ours, theirs = (identity.tokenizer if identity else {} for identity in identities)
    parts = [part for part in other_parts(ours, theirs) if part != "chat template"]
    sizes = [len(m.get_output_embeddings().weight) for m in (base, model)]
    if sizes[0] != sizes[1]:
        parts.append(f"size of the vocabulary ({sizes[1]} tokens and not {sizes[0]})")
    if parts:
        raise UserError(
            f"training.teacher: {model.name_or_path} has another {parts[0]} than {base.name_or_path}; use a teacher "
            "with the base model's own tokenizer"
        )
    return model


def _in_context(
    task: Task, model: Any, engine: Engine, context: str, seed: int
) -> tuple[Sequence[Example], frozenset[int]]:
    """Return the rows of train after a context, as `recipes/hard_prompt.py` would format them; and which are in it."""
    train, shown = task.splits["train"], set[tuple[str, str]]()
    config = replace(task.config, max_length=2**31, long_rows="error")  # only the model limits what the teacher reads
    small = replace(task, splits=dict.fromkeys(SPLITS, train[:1]) | {"train": train}, config=config)
    if shots := SHOTS.fullmatch(context):
        if not int(shots[1]):
            raise UserError(f"training.teacher_context: {context} is not a context; set one shot or more, or null")
        with settings_named(OWN_KEYS):
            drawn = draw_shots(task, int(shots[1]), seed)
            taught = with_prompt(small, config.prompt, drawn, SEPARATOR)
        shown = {(row.prompt, row.target) for row in drawn}  # not its place, because train may repeat a row
    else:
        text = text_or_file("training.teacher_context", context).strip().replace("{", "{{").replace("}", "}}")
        taught = with_prompt(small, text + SEPARATOR + config.prompt)
    try:
        read = encode(taught, engine.tokenizer, input_spec(model, virtual_tokens(model))).train
    except RowTooLongError as error:
        raise UserError(f"training.teacher_context: {error.facts}; use a shorter text or fewer shots") from None
    if not shown:
        return read, frozenset()
    return read, frozenset(number for number, row in enumerate(train) if (row.prompt, row.target) in shown)


def _with_head(model: PreTrainedModel | PeftModel, train: Sequence[Example]) -> tuple[PreTrainedModel | PeftModel, int]:
    """Return a teacher that keeps the keys and values of the tokens that all rows begin with, and their number.

    The teacher then reads a long context once, and not in each step. A teacher does not change if it has an adapter, or
    layers that do not keep keys and values of all these tokens.
    """
    head = train[0].document.prompt_ids
    for example in train:
        head = head[: common_head([(*head, -1), example.document.prompt_ids])]
    if not head or isinstance(model, PeftModel) or refusal("prefix_tuning", model.config):
        return model, 0
    try:
        values = keys_and_values(model, head)
    except (ValueError, TypeError):
        return model, 0
    kept = attach(model, PrefixTuningConfig(num_virtual_tokens=len(head)), section="training", seed=None)
    set_start(kept, values)
    kept.eval().requires_grad_(False)
    return kept, len(head)


def _digest(model: torch.nn.Module) -> str:
    """Return a SHA-256 of evenly spaced numbers of all weights, including an adapter's."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(name.encode() + sample_of(parameter).float().numpy().tobytes())
    return digest.hexdigest()
