"""Make the rows of one language of the home commands: templates, their split, sentences, and their commands."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from scripts.build_data.home_commands.schema import number
from scripts.build_data.home_commands.sentences import Sampler, load_household, marked_slots, plain, reads_well
from scripts.build_data.text import digest, normalise

from hassil.expression import Expression
from hassil.intents import Intent, IntentData, Intents, SlotList, TextSlotList
from hassil.parse_expression import parse_sentence
from hassil.recognize import RecognizeResult, recognize_all
from hassil.util import normalize_for_matching
from home_assistant_intents import get_intents

SPLITS = ("train", "validation", "test")
# Small talk and withdrawals, which are not commands that a home could execute.
LEFT_OUT = {"HassRespond", "HassNevermind"}
# Changing a timer by more than its time.
ABSURD = {"hours_start_minutes", "hours_start_seconds", "minutes_start_seconds", "seconds_start_hours"}
HELD_OUT = {"test": 0.15, "validation": 0.08}  # shares of an intent's templates
FEWEST = 3  # templates; an intent with fewer is in train only
MOST = 40  # most rows per template
TRIES, FAILURES = 400, 8  # tries to make a row, and failures of the recogniser among them
HERE = "here"  # means the room of the microphone, which sentences do not name


# A text from a template contains a piece of each.
Clauses = frozenset[frozenset[str]]


@dataclass(frozen=True)
class Template:
    """A sentence template of one intent, with its blocks in the source."""

    id: str
    intent: str
    text: str
    blocks: tuple[IntentData, ...]

    @cached_property
    def domains(self) -> list[str]:
        """The domains with fitting names, without repetition."""
        found: dict[str, None] = {}
        for block in self.blocks:
            domain = (block.requires_context or {}).get("domain", [])
            found |= dict.fromkeys([domain] if isinstance(domain, str) else domain)
        return list(found)

    @cached_property
    def sentence(self) -> Expression:
        """The parsed text."""
        return parse_sentence(self.text, keep_text=True).expression


@dataclass(frozen=True)
class Reading:
    """The recogniser's command for a text, and the ids of all templates with this command."""

    intent: str
    slots: Mapping[str, Any]
    templates: frozenset[str]


@dataclass(frozen=True)
class Row:
    """One utterance; `command` is canonical JSON."""

    language: str
    intent: str
    template: str
    text: str
    command: str

    @property
    def id(self) -> str:
        """The language and a hash of the text, which is unique in its language."""
        return f"{self.language}-{digest(f'{self.language}/{self.text}')[:12]}"

    def as_json(self) -> str:
        """Return the row as one JSON line, with the columns in their published order."""
        columns = ("id", "language", "intent", "template", "text", "command")
        return json.dumps({name: getattr(self, name) for name in columns}, ensure_ascii=False) + "\n"


def command(intent: str, slots: Mapping[str, Any]) -> str:
    """Return the canonical JSON text of a command: slots sorted by name."""
    return json.dumps({"intent": intent, "slots": dict(sorted(slots.items()))}, ensure_ascii=False)


def template_id(intent: str, text: str) -> str:
    """Return the id of a template: its intent and a hash of its text."""
    return f"{intent}-{digest(text)[:8]}"


def keys(text: str) -> set[str]:
    """Return the forms in which two utterances count as the same: sorted casefolded words; letters and digits."""
    return {" ".join(sorted(re.findall(r"[^\W_]+", text.casefold()))), normalise(text)}


class Language:
    """The source in one language, with a household to fill it."""

    def __init__(self, name: str) -> None:
        self.name = name
        source = get_intents(name)
        assert source is not None
        self.intents = Intents.from_dict(source)
        self.home = load_household(name)
        self.sampler = Sampler(self.intents, self.home)
        self.lists: dict[str, SlotList] = {
            name: TextSlotList.from_tuples([(v.text, v.text) for v in self.home.open[name]], allow_template=False)
            for name in ("area", "floor")
        }
        named = [
            (value.text, value.text, {"domain": group.removeprefix("name/")})
            for group, values in self.home.open.items()
            if group.startswith("name/")
            for value in values
        ]
        self.lists["name"] = TextSlotList.from_tuples(named, allow_template=False)

    def templates(self) -> list[Template]:
        """Return the templates in use, in the order of their ids."""
        blocks: dict[tuple[str, str], list[IntentData]] = defaultdict(list)
        for intent in self.intents.intents.values():
            for block in intent.data if intent.name not in LEFT_OUT else []:
                if (block.metadata or {}).get("slot_combination") not in ABSURD:
                    for text in block.sentence_texts:
                        blocks[intent.name, text].append(block)
        found = [Template(template_id(*key), *key, tuple(same)) for key, same in blocks.items()]
        return sorted(found, key=lambda template: template.id)

    @cached_property
    def single(self) -> list[tuple[str, IntentData, Clauses]]:
        """Each template of the source with its intent, as a separate block, and its clauses."""
        found = []
        for intent in self.intents.intents.values():
            for block in intent.data:
                rules = self.intents.expansion_rules | block.expansion_rules
                for sentence in block.sentences:
                    alone = copy(block)
                    vars(alone)["sentences"] = [sentence]
                    found.append((intent.name, alone, sentence.get_required_clauses(rules)))
        return found

    @cached_property
    def clauses(self) -> Clauses:
        """All distinct clauses of the templates, which share many."""
        return frozenset(clause for _, _, clauses in self.single for clause in clauses)

    def likely(self, text: str) -> Intents:
        """Return the intents with only those templates for which `text` has a piece of each clause.

        The recogniser would also skip the others, but it searches each piece in each template again.
        """
        said = normalize_for_matching(text).text.casefold()
        unmet = {clause for clause in self.clauses if not any(piece in said for piece in clause)}
        blocks: dict[str, list[IntentData]] = defaultdict(list)
        for intent, block, clauses in self.single:
            if unmet.isdisjoint(clauses):
                blocks[intent].append(block)
        return replace(self.intents, intents={name: Intent(name, same) for name, same in blocks.items()})

    def read(self, text: str) -> Reading | None:
        """Return the recogniser's command for `text`; None if it finds none, or two intents.

        As in the assistant itself, a command with a longer name wins, then one with fewer wildcards, then one with more
        words of the template.
        """
        likely, context = self.likely(text), {"area": HERE}
        results = list(
            recognize_all(text, likely, self.lists, intent_context=context, default_response=None, language=self.name)
        )
        if not results:
            return None
        ranks = [_rank(result) for result in results]
        best = [result for result, rank in zip(results, ranks, strict=True) if rank == min(ranks)]
        commands = {command(result.intent.name, _slots(result)) for result in best}
        if len(commands) > 1:
            return None
        same = [r.intent_sentence for r in results if command(r.intent.name, _slots(r)) in commands]
        intent = best[0].intent.name
        ids = frozenset(template_id(intent, str(sentence.text)) for sentence in same if sentence is not None)
        return Reading(intent, _slots(best[0]), ids)


def _rank(result: RecognizeResult) -> tuple[int, int, int, int]:
    """Return the sort key of a result, the best one lowest (as hassil's `recognize_best`, with `name` preferred)."""
    name = result.entities.get("name")
    wild = [entity for entity in result.entities_list if entity.is_wildcard]
    length = -len(name.text) if name is not None and not name.is_wildcard else 0
    return length, len(wild), -result.text_chunks_matched, sum(len(entity.text or "") for entity in wild)


def _slots(result: RecognizeResult) -> dict[str, Any]:
    """Return the slots of a result, without the room of the microphone."""
    found = {name: number(entity.value) for name, entity in result.entities.items()}
    found = {name: value.strip() if isinstance(value, str) else value for name, value in found.items()}
    return {name: value for name, value in found.items() if (name, value) != ("area", HERE)}


def assign(templates: Sequence[Template]) -> dict[str, str]:
    """Return the split of each template: {id: split}, per intent in the order of the hashes of the ids."""
    split = {}
    groups: dict[str, list[Template]] = defaultdict(list)
    for template in templates:
        groups[template.intent].append(template)
    for group in groups.values():
        order = sorted((template.id for template in group), key=lambda key: digest(f"split/{key}"))
        held = {s: max(1, round(share * len(order))) for s, share in HELD_OUT.items()} if len(order) >= FEWEST else {}
        if len(order) == FEWEST:
            held.pop("validation")
        for name, count in held.items():
            split.update(dict.fromkeys(order[:count], name))
            order = order[count:]
        split.update(dict.fromkeys(order, "train"))
    return split


@dataclass
class Writer:
    """Write the rows of one language, split by split. `seen` has the `keys` of every text so far."""

    language: Language
    splits: Mapping[str, str]
    seen: set[str]
    learnt: set[tuple[str, ...]]
    stats: Counter[str]
    drawn: Counter[str]

    def fill(self, split: str, templates: Sequence[Template], size: int) -> list[Row]:
        """Return up to `size` rows of a split.

        Intents take turns, so that their numbers of rows follow the square root of their numbers of templates. The
        templates of an intent take turns as well, up to `MOST` rows each.
        """
        turns: dict[str, list[Template]] = defaultdict(list)
        for template in templates:
            turns[template.intent].append(template)
        share = {intent: len(own) ** 0.5 for intent, own in turns.items()}
        rows: list[Row] = []
        count: Counter[str] = Counter()
        while turns and len(rows) < size:
            intent = min(turns, key=lambda name: (count[name] / share[name], name))
            template = turns[intent].pop(0)
            row = self.write(template, split) if count[template.id] < MOST else None
            if row is not None:
                rows.append(row)
                count.update([intent, template.id])
                turns[intent].append(template)
            elif not turns[intent]:
                del turns[intent]
        return rows

    def write(self, template: Template, split: str) -> Row | None:
        """Return a new row of `template`, or None if none is found soon."""
        failures = 0
        for _ in range(TRIES):
            self.drawn[template.id] += 1
            key = f"{self.language.name}/{template.id}/{self.drawn[template.id]}"
            marked = self.language.sampler.sample(template.sentence, template.domains, split, key)
            if not reads_well(marked, self.language.home):
                continue
            row = self.judge(template, split, marked)
            if isinstance(row, Row):
                return row
            self.stats[row] += 1
            failures += 1
            if failures == FAILURES:
                break
        return None

    def judge(self, template: Template, split: str, marked: str) -> Row | str:
        """Return the row of a marked sentence, or the reason why there is none."""
        text = plain(marked)
        if not self.seen.isdisjoint(keys(text)):
            return "duplicates"
        reading = self.language.read(text)
        if reading is None or reading.intent != template.intent or template.id not in reading.templates:
            return "ambiguous"
        values = marked_slots(marked)
        if any(reading.slots.get(slot) != value for slot, value in values.items()):
            return "read otherwise"
        if any(isinstance(value, list) for value in reading.slots.values()):
            return "several values"
        if any(self.splits.get(other, split) != split for other in reading.templates):
            return "two splits"
        # Train must have these before a held-out row may need them: slots, and the values of closed lists.
        closed = {
            (slot, value) for slot, value in reading.slots.items() if isinstance(value, str) and slot not in values
        }
        needed: set[tuple[str, ...]] = {(template.intent, *pair) for pair in closed}
        needed |= {(template.intent, slot) for slot in reading.slots} | {(template.intent,)}
        if split == "train":
            self.learnt |= needed
        elif not needed <= self.learnt:
            return "unlearnable"
        self.seen |= keys(text)
        return Row(self.language.name, template.intent, template.id, text, command(reading.intent, reading.slots))


def write_language(name: str, sizes: Mapping[str, int]) -> tuple[dict[str, list[Row]], Counter[str]]:
    """Return the rows of one language and the counts of dropped ones. Train is first, because it limits the others."""
    language = Language(name)
    templates = language.templates()
    splits = assign(templates)
    stats = Counter(templates=len(templates))
    writer = Writer(language, splits, set(), set(), stats, Counter())
    own = {split: [template for template in templates if splits[template.id] == split] for split in SPLITS}
    return {split: writer.fill(split, own[split], sizes[split]) for split in SPLITS}, stats
