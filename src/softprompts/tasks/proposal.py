"""Propose a config for a user's file, with columns, choices, metrics and sizes found in the data."""

from __future__ import annotations

import heapq
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path

from softprompts.config.methods import PromptConfig
from softprompts.config.sections import EvaluationConfig, ModelConfig, RunConfig, TaskConfig, TrainingConfig
from softprompts.config.tools import NewConfig
from softprompts.data.readers import Rows, open_file
from softprompts.data.strict_json import JsonError, parse_json
from softprompts.data.values import Unread, plain
from softprompts.errors import UserError, listed, nearest, short
from softprompts.system.files import one_line, write_atomically
from softprompts.tasks.task import Task
from softprompts.tasks.templates import Row

LOOKED_AT = 20_000  # rows, from the first on; of a choice, the answers of all rows
MEASURED = 2_000  # rows of train whose tokens are counted
LONGEST = 200  # rows with most characters; one of them has most tokens
# Names of answer columns, the most certain first; without one, the answer is guessed by the values.
ANSWERS = ("label", "target", "answer", "output", "response", "completion", "summary", "category", "class", "intent")
TEXTS = ("text", "prompt", "input", "question", "sentence", "message", "body", "content", "title", "description")
# Characters of scripts without spaces between words: about two of a word, and about four with vowel signs and tones.
CHINESE_JAPANESE = "[\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
SOUTHEAST_ASIAN = "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]"  # Thai, Lao, Burmese, Khmer
MOST_CHOICES = 50
ROWS_PER_CHOICE = 3  # on average; rarer answers are generated, not chosen
LONGEST_CHOICE = 60  # characters
FEW_ROWS = 20  # of a held-out split: its score has an interval of about 20 points at best (1.96 sqrt(0.25 / 20) = 0.22)
FEW_OF_A_CHOICE = 10
ROOM = 1024  # tokens of prompt and target at most
ENDS = 2  # tokens that begin and end a text
MOST_TESTED = 1000  # rows, for an interval of about 3 points (1.96 sqrt(0.25 / 1000))
LONG = 150  # mean number of tokens per row; with more, the batch is smaller
PASSES = 3  # over train, within these numbers of steps
FEWEST_STEPS, MOST_STEPS = 60, 200
# Values that are no answers: a day with or without its time, an address, and a number such as a time or an identifier.
DAY = (
    r"(?:\w{3}, )?(?:\d{4}[-/.]\d{1,2}(?:[-/.]\d{1,2})?|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}|\d{1,2} \w{3} \d{4})(?:[T ].*)?"
)
NO_ANSWER = re.compile(rf"{DAY}|\S+@\S+|(?:https?://|www\.)\S+|[^\w]*\d[\d\W]{{6,}}")
TEMPLATE_SIGNS = "{}[]!:"  # signs with a meaning in templates


@dataclass(frozen=True)
class Proposal:
    """The settings of a proposed config.

    rows: number of rows that were read; answer, texts: the columns that the model writes and reads; guessed: whether
    the answer was found by its values alone; notes: weaknesses of the data, one line each.
    """

    new: NewConfig
    task: TaskConfig
    prompt: PromptConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    run: RunConfig
    rows: int
    answer: str
    texts: list[str]
    guessed: bool
    notes: list[str] = field(default_factory=list)

    @property
    def file(self) -> Path:
        """The file of the config."""
        return _file(self.new)

    @property
    def columns(self) -> str:
        """The columns of answers and texts, for people."""
        guessed = " (guessed, since it has no usual name; new.answer names another)" if self.guessed else ""
        return f"the model reads {listed(self.texts)} and writes {short(self.answer)}{guessed}"


def _file(new: NewConfig) -> Path:
    return Path(new.output or f"configs/{new.task}/prompt_tuning.yaml")


def propose(new: NewConfig) -> Proposal:
    """Find columns, choices and metrics in a file; `fit_sizes` finds lengths and numbers of steps.

    Raises:
        UserError: the config file exists; the data is damaged or has no rows; a column is missing, or has a name that
            templates do not allow; no column has texts or answers; an answer is empty, or the same in every row; a
            column with a usual name of texts is null in some rows.
    """
    file = _file(new)
    if file.exists():
        raise UserError(f"new.output: {file} exists; name another file, or move it away")
    every = chain.from_iterable(open_file(new.data).batches())
    rows = list(islice(every, LOOKED_AT))
    if not rows:
        raise UserError(f"new.data: {new.data} has no rows")
    columns = list(dict.fromkeys(name for _, record in rows for name in record))
    answer, guessed = _answer_column(new, rows, columns)
    answers = [str(plain(record[answer])) for _, record in rows]
    counts = _counts(answers, (record.get(answer) for _, record in every))
    if len(counts) == 1:
        raise UserError(f'new.answer: column "{answer}" is the same in every row; name another of: {listed(columns)}')
    texts, doubts = _text_columns(new, rows, columns, answer)
    choices = _choices(counts)
    shown = [f"{{{name}}}" if len(texts) == 1 else f"{_words(name).capitalize()}: {{{name}}}" for name in texts]
    task = TaskConfig(
        train=new.data,
        prompt="\n".join([*shown, f"{_words(answer).capitalize()}:"]),
        target=f" {{{answer}}}",
        choices="from_train" if choices else None,
        metrics=["accuracy", "macro_f1"] if choices else _metrics(answers),
        max_rows={"test": MOST_TESTED} if len(rows) > 10 * MOST_TESTED else {},
    )
    return Proposal(
        new,
        task,
        PromptConfig(prompt_tuning_init="TEXT", prompt_tuning_init_text=_instruction(texts, answer, choices)),
        TrainingConfig(),
        EvaluationConfig(bootstrap_resamples=1000),
        RunConfig(f"runs/{new.task}/prompt_tuning", trackers=[]),
        len(rows),
        answer,
        texts,
        guessed,
        [*doubts, *_notes(rows, texts, answers, counts if choices else Counter())],
    )


def _answer_column(new: NewConfig, rows: Rows, columns: Sequence[str]) -> tuple[str, bool]:
    """Return the column that the model must write, with a value in every row, and whether it was guessed."""
    by_name = {name.strip().lower(): name for name in reversed(columns)}
    named = new.answer or next((by_name[name] for name in ANSWERS if name in by_name), None)
    found = named or _guessed_answer(rows, columns)
    _check_column("new.answer", found, columns)
    for place, record in rows:
        value = record.get(found)
        if value is None or isinstance(value, Unread) or not str(plain(value)).strip():
            raise UserError(f'{place}: the answer, column "{found}", is empty; fill it in, or remove the row')
    return found, named is None


def _guessed_answer(rows: Rows, columns: Sequence[str]) -> str:
    """Return the column whose values look most like answers; of several such columns the last one.

    These are choices. If the last column has written texts, and another column can be read, it is the answer.
    """
    values = {name: _column(rows, name)[0] for name in columns}
    likely = [name for name in columns if not _are_no_answers(values[name])]
    texts = [name for name in likely if _are_texts(name, values[name])]
    if len(texts) > 1 and likely[-1] == texts[-1] and texts[-1].strip().lower() not in TEXTS:
        return texts[-1]
    choices = [name for name in likely if len(set(values[name])) > 1 and _choices(Counter(values[name]))]
    others = [name for name in likely if name not in texts]
    repeated = [name for name in others if len(set(values[name])) < len(values[name])]
    return next(found[-1] for found in (choices, repeated, others, columns) if found)


def _are_no_answers(values: Sequence[str]) -> bool:
    """Return whether half of the values of a column or more are days, addresses or long numbers, or it has no value."""
    return 2 * sum(NO_ANSWER.fullmatch(value.strip()) is not None for value in values) >= len(values)


def _counts(answers: Sequence[str], others: Iterable[object]) -> Counter[str]:
    """Return how often each answer occurs. Other rows are read too, if the answers are choices or all the same.

    A file may be sorted by its labels, so that its first rows have only some of them.
    """
    counts = Counter(answers)
    if len(counts) > 1 and not _choices(counts):
        return counts
    for value in others:
        if value is not None and not isinstance(value, Unread):  # whoever reads the task names such a row
            counts[str(plain(value))] += 1
        if len(counts) > MOST_CHOICES:
            break
    return counts


def _text_columns(new: NewConfig, rows: Rows, columns: Sequence[str], answer: str) -> tuple[list[str], list[str]]:
    """Return the columns that the model reads, and notes on others that may be missing among them.

    The columns are the named ones, or those with a usual name or several words per row.
    """
    if new.text:
        return _named_texts(new, rows, columns, answer), []
    others = [name for name in columns if name != answer]
    found, unique, gaps = [], [], {}
    for name in others:
        texts, empty = _column(rows, name)
        if not _are_texts(name, texts):
            unique += [name] if len(set(texts)) == len(rows) else []
        elif empty:
            gaps[name] = (
                f'column "{short(name)}" looks like a text, but has no value in {len(empty):,} of '
                f"{len(rows):,} rows, e.g. {empty[0]}"
            )
        else:
            found.append(name)
    if main := next((name for name in gaps if not found or name.strip().lower() in TEXTS), None):
        raise UserError(f"new.text: {gaps[main]}; fill it in, remove these rows, or name other columns in new.text")
    if not found:
        raise UserError(
            f"new.text: no column with a text in every row except the answer, {answer}"
            + (f"; name one of: {listed(others)}" if others else "; add one to the file")
            + ("" if new.answer or not others else "; if another column has the answers, name it with new.answer")
        )
    for name in found:
        _check_column("new.text", name, columns)
    notes = [f"{said}, so the model does not read it; fill it in, or remove these rows" for said in gaps.values()]
    if unique:
        said = "these columns differ in every row, and do not look like texts, so the model does not read them"
        notes.append(f"{said}: {listed(unique)}; name them in new.text if it should")
    return found, notes


def _named_texts(new: NewConfig, rows: Rows, columns: Sequence[str], answer: str) -> list[str]:
    for name in new.text:
        _check_column("new.text", name, columns)
        if name == answer:
            raise UserError(f'new.text: "{name}" is the answer; name another column, or another new.answer')
        if empty := _column(rows, name)[1]:
            raise UserError(
                f'{empty[0]}: column "{short(name)}", named in new.text, has no value; fill it in, or remove the row'
            )
    return list(new.text)


def _column(rows: Rows, name: str) -> tuple[list[str], list[str]]:
    """Return the values of a column as texts, and the places of rows in which it is null or missing."""
    texts, empty = [], []
    for place, record in rows:
        value = record.get(name)
        if value is None or isinstance(value, Unread):
            empty.append(place)
        else:
            texts.append(str(plain(value)))
    return texts, empty


def _are_texts(name: str, texts: Sequence[str]) -> bool:
    """Return whether the values of a column are texts, by its name or by three words per value on average."""
    if len(set(texts)) < 2:
        return False
    return name.strip().lower() in TEXTS or sum(map(_number_of_words, texts)) / len(texts) >= 3


def _number_of_words(text: str) -> float:
    """Return the number of words with a letter between spaces, so that an address or an identifier is a single one.

    Scripts without spaces have an estimated number.
    """
    between = re.sub(f"{CHINESE_JAPANESE}|{SOUTHEAST_ASIAN}", " ", text).split()
    spaced = sum(any(map(str.isalpha, word)) for word in between)
    return spaced + len(re.findall(CHINESE_JAPANESE, text)) / 2 + len(re.findall(SOUTHEAST_ASIAN, text)) / 4


def _check_column(key: str, name: str, columns: Sequence[str]) -> None:
    if name not in columns:
        raise UserError(f'{key}: no column "{name}"{nearest(name, columns)}')
    if any(sign in name for sign in TEMPLATE_SIGNS):
        raise UserError(
            f'{key}: no template can name the column "{short(name)}"; give it a name without {TEMPLATE_SIGNS}'
        )


def _choices(counts: Counter[str]) -> list[str]:
    """Return the distinct answers, the most frequent first, if they are few and short; else an empty list."""
    few = len(counts) <= min(MOST_CHOICES, counts.total() / ROWS_PER_CHOICE)
    return [value for value, _ in counts.most_common()] if few and max(map(len, counts)) <= LONGEST_CHOICE else []


def _metrics(answers: Sequence[str]) -> list[str]:
    """Return the metrics of generated answers: JSON objects, short answers, or sentences."""
    if all(map(_is_object, answers)):
        return ["json_object"]
    words = sum(len(answer.split()) for answer in answers) / len(answers)
    return ["exact_match", "chrf"] if words <= 4 else ["rouge_l", "chrf"]


def _is_object(text: str) -> bool:
    try:
        return isinstance(parse_json(text), dict)
    except JsonError:
        return False


def _instruction(texts: Sequence[str], answer: str, choices: Sequence[str]) -> str:
    read = " and ".join(map(_words, texts))
    if not choices:
        return f"Write the {_words(answer)} that belongs to the following {read}."
    named = f": {', '.join(choices[:-1])} or {choices[-1]}" if len(choices) <= 10 else ""
    return f"Choose the {_words(answer)} of the following {read}{named}."


def _words(name: str) -> str:
    """Return a column's name as words: "ticketBody" and "ticket_body" become "ticket body"."""
    return " ".join(re.sub(r"(?<=[a-z])(?=[A-Z])|[_\W]+", " ", name).lower().split()) or name


def _notes(rows: Rows, texts: Sequence[str], answers: Sequence[str], choices: Counter[str]) -> list[str]:
    """Return weaknesses of the data: few rows, rare choices, a sorted file, repeated texts, texts with several answers.

    `choices` has the number of rows of each; it is empty if answers are written.
    """
    notes = []
    if len(rows) // 10 < FEW_ROWS:
        notes.append(
            f"{len(rows)} rows: about {len(rows) // 10} are held out for each of validation and test; these show that "
            f"the task works, but not a reliable score; label {10 * FEW_ROWS} rows or more before you rely on it"
        )
    expected = len(rows) / max(1, choices.total())  # share of a choice's rows in the first ones of an unsorted file
    early = set(answers)
    if late := [value for value, n in choices.items() if value not in early and n * expected >= FEW_OF_A_CHOICE]:
        notes.append(
            f"the first {len(rows):,} rows have none of these choices, so the file seems sorted: {listed(late)}; "
            "shuffle it, because max_rows takes the first rows"
        )
    rare = [f"{value} ({n})" for value, n in choices.items() if n < FEW_OF_A_CHOICE]
    if rare:
        notes.append(f"choices with fewer than {FEW_OF_A_CHOICE} rows: {listed(rare)}")
    # Two forms of a letter (NFC) look the same to a person.
    read = [
        tuple(unicodedata.normalize("NFC", str(plain(record[name]))).strip() for name in texts) for _, record in rows
    ]
    pairs = set(zip(read, answers, strict=True))
    if repeated := len(rows) - len(pairs):
        notes.append(f"rows that repeat another: {repeated:,}; remove them, or test rows may be known from train")
    if conflicts := sum(n > 1 for n in Counter(text for text, _ in pairs).values()):
        notes.append(f"texts with several different answers: {conflicts:,}; no model can get all of them right")
    return notes


def fit_sizes(
    proposal: Proposal, task: Task, count: Callable[[Sequence[str]], list[int]], room: int | None = None
) -> Proposal:
    """Return the proposal with lengths, batch size and steps that fit the rows.

    Args:
        task: the rows, as read with `proposal.task`.
        count: function that returns the number of tokens of each text.
        room: tokens that the model takes in addition to virtual ones; None without a limit.
    """
    first = task.splits["train"][:MEASURED]
    rows = list({row.place: row for row in [*first, *_longest(task)]}.values())
    targets = count([row.target for row in rows])
    lengths = [p + t for p, t in zip(count([row.prompt for row in rows]), targets, strict=True)]
    bound = ROOM if room is None else min(ROOM, room)
    most = _rounded(max(lengths) * 1.25 + 8, 64)  # rows that were not counted may be longer
    typical = sum(lengths[: len(first)]) / len(first)
    batch = 8 if typical > LONG or len(task.splits["train"]) < 200 else 16
    passes = PASSES * len(task.splits["train"]) / batch
    steps = _rounded(min(max(passes, FEWEST_STEPS), MOST_STEPS), 10)
    large = len(task.splits["validation"]) > 300
    notes = list(proposal.notes)
    over = sum(length + ENDS > bound for length in lengths)
    if over:
        notes.append(
            f"{over:,} of {len(lengths):,} counted rows have more than {bound} tokens: the beginning of their prompt "
            "is cut"
        )
    return replace(
        proposal,
        task=replace(
            proposal.task,
            max_length=min(most, bound),
            long_rows="cut_prompt" if over else "error",
        ),
        training=TrainingConfig(
            steps=steps,
            learning_rate=0.02,
            batch_size=batch,
            warmup_steps=5,
            eval_every=math.ceil(steps / 3),
            eval_rows=300 if large else None,
        ),
        evaluation=replace(proposal.evaluation, max_new_tokens=_rounded(max(targets) * 1.25 + 4, 8)),
        notes=notes,
    )


def _longest(task: Task) -> list[Row]:
    """Return the rows with most characters, of all splits."""
    every = (row for rows in task.splits.values() for row in rows)
    return heapq.nlargest(LONGEST, every, key=lambda row: len(row.prompt) + len(row.target))


def _rounded(number: float, step: int) -> int:
    return math.ceil(number / step) * step


def write_proposal(proposal: Proposal, model: ModelConfig) -> None:
    """Write the config to a new file.

    Raises:
        UserError: the folder cannot be written.
    """
    with one_line(f"new.output: {proposal.file.parent}"):
        proposal.file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(proposal.file, config_text(proposal, model))


def config_text(proposal: Proposal, model: ModelConfig) -> str:
    """Return the config as commented YAML."""
    prompt, training, evaluation = proposal.prompt, proposal.training, proposal.evaluation
    passes = training.steps * training.batch_size / (0.8 * proposal.rows)
    rows = f"{proposal.rows:,} rows{' or more' * (proposal.rows == LOOKED_AT)}"
    lines = [
        f"# Prompt tuning on {_printable(proposal.new.data)}: {rows}.",
        "#",
        f"#   accelerate launch recipes/prompt_tuning.py --config {_printable(str(proposal.file))}",
        "#",
        "# The settings were chosen from the data. Change any that you know better.",
        *([f"# Columns: {_printable(proposal.columns)}."] if proposal.guessed else []),
        *(f"# Note: {note}." for note in proposal.notes),
        "",
        "model:",
        f"  name_or_path: {_quoted(model.name_or_path)} # or a folder, or a Hub id",
        f"  dtype: {model.dtype} # bfloat16 on a GPU; the soft prompt is always float32",
        "",
        *_task_lines(proposal.task),
        "",
        "prompt: # PEFT's PromptTuningConfig",
        f"  num_virtual_tokens: {prompt.num_virtual_tokens}",
        "  prompt_tuning_init: TEXT # begins as the embeddings of this text",
        f"  prompt_tuning_init_text: {_quoted(prompt.prompt_tuning_init_text)}",
        "",
        "training:",
        f"  steps: {training.steps} # about {passes:.0f} passes over train",
        f"  learning_rate: {training.learning_rate} # try other values of this setting first",
        f"  batch_size: {training.batch_size}",
        f"  warmup_steps: {training.warmup_steps}",
        f"  eval_every: {training.eval_every} # validate and save a checkpoint",
        *([f"  eval_rows: {training.eval_rows}"] if training.eval_rows else []),
        "  best_by: loss # chooses the checkpoint, on validation",
        "",
        "evaluation:",
        f"  batch_size: {evaluation.batch_size}",
        *([] if proposal.task.choices else [f"  max_new_tokens: {evaluation.max_new_tokens} # of an answer"]),
        f"  bootstrap_resamples: {evaluation.bootstrap_resamples}",
        "",
        "run:",
        f"  output_dir: {_quoted(proposal.run.output_dir)}",
        "  seed: 0",
        "  trackers: []",
    ]
    return "\n".join(lines) + "\n"


def _task_lines(task: TaskConfig) -> list[str]:
    if task.choices:
        answers = "  choices: from_train # the distinct answers, scored by likelihood"
    else:
        answers = "  # Without `choices` the model writes its answer."
    return [
        "task:",
        f"  train: {_quoted(task.train)} # validation and test: a tenth of it each, or separate files",
        f"  prompt: {_quoted(task.prompt)} # the model reads this; {{name}} is a column",
        f"  target: {_quoted(task.target)} # the model writes this; it begins with the space before the word",
        answers,
        f"  metrics: [{', '.join(task.metrics)}] # others: docs/repository.md",
        *([f"  max_rows: {json.dumps(task.max_rows)} # the first ones"] if task.max_rows else []),
        f"  max_length: {task.max_length} # tokens of prompt and target",
        *(["  long_rows: cut_prompt # a longer prompt loses its beginning"] if task.long_rows != "error" else []),
    ]


def _quoted(text: str | None) -> str:
    """Return a text as a YAML string. JSON's are such, but for control characters: YAML refuses or changes some."""
    return _printable(json.dumps(text, ensure_ascii=False))


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    """Return the escape of a character in YAML, which has no pairs of surrogates."""
    return f"\\u{ord(char):04x}" if ord(char) <= 0xFFFF else f"\\U{ord(char):08x}"
