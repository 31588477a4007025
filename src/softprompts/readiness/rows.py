"""Check the numbers of rows, and their labels, lengths and languages."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from softprompts.config.sections import TaskConfig
from softprompts.data.sources import SPLITS
from softprompts.encoding.documents import EncodedTask, lengths_of
from softprompts.encoding.tokenization import encode
from softprompts.errors import UserError, listed, short
from softprompts.methods.catalog import METHODS
from softprompts.methods.preflight import without_weights
from softprompts.methods.soft_prompts.context_tuning import demonstrations
from softprompts.models.loading import InputSpec, count_parameters, input_spec, kind_of, load_model_config
from softprompts.models.paths import model_path
from softprompts.models.reading import read_tokenizer, silent_transformers
from softprompts.readiness.findings import Finding, Status, percent, place_of, places, share
from softprompts.readiness.overlap import input_of
from softprompts.readiness.settings import RecipeSettings
from softprompts.tasks.checks import RARE
from softprompts.tasks.privacy import shown_names
from softprompts.tasks.task import Task

import numpy

# Conventions of these checks, for a person to judge; no study has one number for all tasks.
FEW_TRAIN, TOO_FEW_TRAIN = 100, 10
FEW_VALIDATION = 30  # each of 30 rows changes the score by 3 points
LOPSIDED = 0.8  # share of one label from which on accuracy means little
SHIFTED = 0.1  # total variation distance between the labels of two splits
CHANCE = 0.01  # and the probability that a random split has one as large
DRAWS = 1000  # random splits
CUT = 0.05  # share of rows whose prompt may be cut
SAMPLED = 2000  # rows per split whose language is identified, evenly spread
LETTERS = 20  # a shorter text shows no language
SURE = 0.5  # least probability of a language
# Smallest share and number of rows for a language: identification of short texts is wrong about as often, and one error
# among 40 rows is a larger share.
PRESENT, PRESENT_ROWS = 0.02, 3


def check_not_single(task: Task) -> None:
    """Raise `UserError` if all rows of a split have the same target, so nothing can be learned or measured."""
    for split, rows in task.splits.items():
        first = rows[0].target
        if len(rows) > 1 and all(row.target == first for row in rows):
            what = "nothing can be learned" if split == "train" else "nothing can be measured"
            shown = short(shown_names([first])[first].strip())
            raise UserError(f'task.{split}: all {len(rows):,} rows have the target "{shown}": {what}')


def counts(task: Task, method: str) -> Finding:
    """Return the finding on the numbers of rows."""
    rows = {split: len(found) for split, found in task.splits.items()}
    said = listed(f"{count:,} of {split}" for split, count in rows.items())
    table = [{"split": split, "rows": f"{count:,}"} for split, count in rows.items()]
    few = METHODS[method].what in ("few", "written")  # these methods are for few rows
    remedies = []
    if rows["train"] < FEW_TRAIN and not few:
        remedies.append(f"Collect {FEW_TRAIN} rows of train or more, or use a method for few rows (context_tuning).")
    if rows["validation"] < FEW_VALIDATION:
        remedies.append(f"Provide {FEW_VALIDATION} rows of validation or more: they choose the checkpoint.")
    too_few = rows["train"] < TOO_FEW_TRAIN and not few
    status: Status = "red" if too_few else "amber" if remedies else "green"
    return Finding("counts", "Rows", status, f"{said}.", " ".join(remedies), {"rows": rows}, table)


def balance(task: Task, metric: str) -> Finding:
    """Return the finding on the labels of a task with choices. Among metrics, only macro_f1 counts labels equally."""
    if task.choices is None:
        return Finding("balance", "Labels", "green", "The task has open answers, not labels.")
    shown = shown_names(task.choices)
    by_split = {split: Counter(shown[row.target] for row in rows) for split, rows in task.splits.items()}
    choices = list(shown.values())
    train, test = by_split["train"], by_split["test"]
    shares = {s: {c: share(found[c], found.total()) for c in choices} for s, found in by_split.items()}
    shifts = {s: _shift(by_split[s], train, choices) for s in SPLITS[1:]}
    # Each split on its own: a few rows of one split have a large shift by chance, and must not hide that of another.
    shifted = [s for s, (shift, chance) in shifts.items() if shift > SHIFTED and chance < CHANCE]
    table = [
        {"label": short(c.strip(), 40)}
        | {s: f"{found[c]:,} ({percent(shares[s][c])})" for s, found in by_split.items()}
        for c in choices
    ]
    absent = [c.strip() for c in choices if not train[c]]
    rare = [c.strip() for c in choices if 0 < train[c] < RARE]
    unseen = [c.strip() for c in choices if not test[c]]
    top, most = max(shares["train"].items(), key=lambda item: item[1])
    remedies = []
    if absent:
        remedies.append(f"Add rows to train of: {listed(absent)}. Or remove them from task.choices.")
    if rare:
        remedies.append(f"Collect {RARE} rows of train or more of: {listed(rare)}.")
    if unseen:
        remedies.append(f"Add rows to test of: {listed(unseen)}. Otherwise they are not tested.")
    if most >= LOPSIDED and metric != "macro_f1":
        remedies.append(
            f'Use macro_f1 as kpi.metric, and in task.metrics: always "{short(top.strip(), 40)}" has an accuracy of '
            f"{percent(most)} on train."
        )
    if shifted:
        remedies.append(f"Draw all splits from the same rows: {listed(shifted)} and train differ in shares of labels.")
    status: Status = "red" if absent else "amber" if remedies else "green"
    said = f'{len(choices)} labels. The most frequent one in train is "{short(top.strip(), 40)}" ({percent(most)}).'
    facts: dict[str, Any] = {"shares": shares, "absent": absent, "rare": rare, "not_in_test": unseen}
    facts["shifts"] = {s: {"shift": shift, "p": chance} for s, (shift, chance) in shifts.items()}
    return Finding("balance", "Labels", status, said, " ".join(remedies), facts, table)


def _shift(one: Counter[str], other: Counter[str], labels: Sequence[str]) -> tuple[float, float]:
    """Return the total variation distance of two splits' labels, and how often a random split has one as large."""
    first, second = (numpy.array([found[label] for label in labels]) for found in (one, other))
    both, rows = first + second, int(first.sum())

    def distance(counted: numpy.ndarray) -> numpy.ndarray:
        shares = counted / rows - (both - counted) / max(1, both.sum() - rows)
        return numpy.abs(shares).sum(-1) / 2

    found = float(distance(first))
    drawn = numpy.random.default_rng(0).multivariate_hypergeometric(both, rows, DRAWS)
    return found, float((distance(drawn) >= found - 1e-12).mean())


@dataclass(frozen=True)
class Measured:
    """The tokens of a task, and facts of the base model that need only its tokenizer and config, not its weights.

    Args:
        data: the rows as tokens, without cuts; with demonstrations, only these are its rows of train.
        max_length: greatest number of tokens per row, by the task's settings.
        spec: limits of the base model's input in addition to the virtual tokens and the demonstrations.
        parameters: number of the base model's parameters, without the input embeddings, which are looked up, and
            without the output embedding, which runs for few tokens; None if the model cannot be built without weights.
        demonstrations: number of tokens of the demonstrations that become a soft prompt.
    """

    data: EncodedTask
    max_length: int
    spec: InputSpec
    parameters: int | None
    demonstrations: int = 0

    @property
    def limit(self) -> int:
        """Return the greatest number of tokens per row."""
        if self.spec.room is None or self.spec.kind == "encoder-decoder":
            return self.max_length
        return min(self.max_length, self.spec.room)

    def lengths(self, split: str) -> list[int]:
        """Return the number of tokens of each row of a split: its prompt, and its longest choice or its target."""
        examples: Sequence[Any] = getattr(self.data, split)
        if self.spec.kind == "encoder":
            return lengths_of(examples, prompts_only=True)
        if not examples[0].choices:
            return [length + 1 for length in lengths_of(examples)]
        longest = max(len(document.target_ids) for document in examples[0].choices)
        return [length + longest for length in lengths_of(examples, prompts_only=True)]

    def beyond_positions(self, split: str) -> list[bool]:
        """Return whether each row of a split needs more positions than the base model has.

        An encoder-decoder reads the prompt in the positions of its encoder, and the target in those of its decoder.
        """
        whole, spec = self.lengths(split), self.spec
        room = math.inf if spec.room is None else spec.room
        if spec.kind != "encoder-decoder":
            return [length > room for length in whole]
        target_room = math.inf if spec.target_room is None else spec.target_room
        prompts = lengths_of(getattr(self.data, split), prompts_only=True)
        return [p > room or length - p > target_room for p, length in zip(prompts, whole, strict=True)]


def measure(settings: RecipeSettings, task: Task) -> Measured:
    """Tokenize a task.

    Raises:
        UserError: the base model does not exist; train has fewer rows than demonstrations; `encode` refuses the task,
            except for long rows.
    """
    config = load_model_config(settings.model)
    kind = kind_of(config)
    base = without_weights(config, kind)
    spec = InputSpec(kind) if base is None else input_spec(base, settings.virtual_tokens)
    with silent_transformers():
        tokenizer = read_tokenizer(model_path(settings.model), settings.model.revision)
    if settings.demonstrations:
        task = demonstrations(task, settings.demonstrations, settings.run.seed)
    whole = replace(task, config=replace(task.config, max_length=sys.maxsize, long_rows="error"))
    data = encode(whole, tokenizer, replace(spec, room=None, target_room=None), needs_end=False)
    used = 0
    if settings.demonstrations:
        separator = len(tokenizer(settings.demonstrations.separator, add_special_tokens=False).input_ids)
        used = _tokens_of_demonstrations(data, task.config, separator)
        spec = replace(spec, room=None if spec.room is None else max(0, spec.room - used))
    parameters = None if base is None else _computing_parameters(base, kind)
    return Measured(data, task.config.max_length, spec, parameters, used)


def _tokens_of_demonstrations(data: EncodedTask, config: TaskConfig, separator: int) -> int:
    """Return the tokens of all rows of train, as a run cuts them, each with a separator of a number of tokens."""
    most = config.max_length if config.long_rows == "cut_prompt" else math.inf
    documents = [example.document for example in data.train]
    return int(sum(min(most, len(d.prompt_ids) + len(d.target_ids)) + separator for d in documents))


def _computing_parameters(base: Any, kind: str) -> int:
    found = [base.get_input_embeddings(), None if kind == "encoder" else base.get_output_embeddings()]
    tables = {id(t.weight): t.weight.numel() for t in found if t}
    return count_parameters(base).total - sum(tables.values())


def lengths(task: Task, measured: Measured) -> Finding:
    """Return the finding on the lengths of rows, compared with the greatest possible length."""
    table, long, longest, fits = [], [], 0, True
    spec = measured.spec
    facts: dict[str, Any] = {"limit": measured.limit, "room": spec.room}
    for split, rows in measured.data.task.splits.items():
        found, beyond = measured.lengths(split), measured.beyond_positions(split)
        half, most = (int(numpy.percentile(found, p)) for p in (50, 95))
        facts[split] = {"median": half, "95 %": most, "longest": max(found)}
        table.append({"split": split} | {name: f"{value:,}" for name, value in facts[split].items()})
        long += [place_of(rows[n]) for n, length in enumerate(found) if beyond[n] or length > measured.max_length]
        longest = max(longest, *found)
        fits = fits and not any(beyond)
    part = share(len(long), sum(map(len, measured.data.task.splits.values())))
    facts |= {"too_long": len(long), "share": part, "demonstrations": measured.demonstrations}
    said = f"The longest row has {longest:,} tokens. task.max_length is {task.config.max_length:,}{_room(spec)}."
    if measured.demonstrations:
        said += f" The demonstrations have {measured.demonstrations:,} tokens, which the room is without."
    if not long:
        return Finding("lengths", "Lengths", "green", said, "", facts, table)
    said += f" Rows that do not fit: {len(long):,} ({percent(part)}), {places(long)}."
    shorter = "Use fewer demonstrations, shorten" if measured.demonstrations else "Shorten"
    remedy = (
        f"Set task.max_length to {longest}." if fits else f"{shorter} these rows, or use a base model with more room."
    )
    if task.config.long_rows == "cut_prompt":
        status: Status = "amber" if part > CUT else "green"
        return Finding("lengths", "Lengths", status, f"{said} Their prompts are cut.", remedy, facts, table)
    return Finding("lengths", "Lengths", "red", said, remedy, facts, table)


def _room(spec: InputSpec) -> str:
    """Return the clause on the base model's positions; empty without a limit."""
    if spec.kind != "encoder-decoder":
        return "" if spec.room is None else f", the base model has room for {spec.room:,}"
    rooms = {"prompt": spec.room, "target": spec.target_room}
    found = [f"{room:,} of the {part}" for part, room in rooms.items() if room is not None]
    return f", the base model has room for {' and '.join(found)}" if found else ""


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # not above: it comes with an extra

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True, min_confidence=SURE)


def _languages(task: Task) -> Iterator[tuple[str, Counter[str]]]:
    text = input_of(task)
    for split, rows in task.splits.items():
        found: Counter[str] = Counter()
        for n in range(0, len(rows), max(1, len(rows) // SAMPLED)):
            own = text(rows[n].record)
            if sum(c.isalpha() for c in own) >= LETTERS:
                found[_identifier().classify(own)[0]] += 1
        found.pop("und", None)
        yield split, found


def languages(task: Task) -> Finding:
    """Return the finding on the languages of the inputs, as py3langid names them; unsure ones are left out."""
    by_split = dict(_languages(task))
    shares: dict[str, Mapping[str, float]] = {
        split: {name: share(count, found.total()) for name, count in found.most_common()}
        for split, found in by_split.items()
    }
    names = dict.fromkeys(
        name
        for split, found in by_split.items()
        for name, count in found.most_common()
        if count >= PRESENT_ROWS and shares[split][name] >= PRESENT
    )
    table = [
        {"language": name} | {split: percent(found.get(name, 0.0)) for split, found in shares.items()} for name in names
    ]
    facts = {"rows": {split: found.total() for split, found in by_split.items()}, "shares": shares}
    if not names:
        return Finding(
            "languages", "Languages", "green", "Too few texts are long enough to show a language.", "", facts
        )
    train = shares["train"]
    new = [name for name in names if train.get(name, 0.0) < PRESENT]
    said = (
        f"The inputs are in: {listed(names)}."
        if len(names) > 1
        else f"The inputs are in one language: {listed(names)}."
    )
    if not new:
        return Finding("languages", "Languages", "green", said, "", facts, table)
    remedy = f"Add rows in {listed(new)} to train, or remove them from validation and test."
    return Finding("languages", "Languages", "amber", f"{said} Train hardly has {listed(new)}.", remedy, facts, table)
