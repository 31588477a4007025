"""Make sentences from hassil's templates. Every choice comes from a hash, and sentences must be like speech.

A template is a sentence with options, alternatives, rules `<...>` and lists `{...}`. Values come from a household, and
from the lists that the source leaves open. They are inserted with their slot and their class, `{area:f|Küche}`, so that
the words before them can be checked. `plain` removes the marks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from scripts.build_data.text import digest

import yaml
from hassil.expression import Alternative, Expression, Group, ListReference, Permutation, RuleReference, TextChunk
from hassil.intents import Intents, RangeSlotList, TextSlotList
from hassil.parse_expression import parse_sentence

T = TypeVar("T")
MARK = re.compile(r"\{(\w+):(\w+)\|([^}]*)\}")
HELD_OUT = {"*": "test", "+": "validation"}  # after a value of a household: the only split that has it
MOST_WORDS = 20
# Numbers as people say them. For other lists, numbers come from the whole range.
PERCENT = (*range(0, 101, 5), 1, 12, 33, 42, 66, 78, 99)
NUMBERS: Mapping[str, Sequence[float]] = {
    "temperature": (*range(15, 28), 18.5, 19.5, 20.5, 21.5, 22.5),
    "color_temperature": range(2000, 6600, 100),
    "volume_step_up": (5, 10, 15, 20, 25, 30),
    "volume_step_down": (5, 10, 15, 20, 25, 30),
    "timer_hours": range(1, 13),
    "timer_minutes": (*range(1, 21), 25, 30, 35, 40, 45, 50, 55),
    "timer_seconds": (5, 10, 15, 20, 25, 30, 40, 45, 50, 55, 90),
}


@dataclass(frozen=True)
class Value:
    """A value of an open list: its text, its class (gender or preposition), and the split that alone has it, if any."""

    text: str
    kind: str
    only: str | None


@dataclass(frozen=True)
class Household:
    """The data of a language in addition to the source.

    `values` has the values of each open list ("area", "floor", the wildcards) and of each domain of names
    ("name/light"): {class: [value, ...]}. `before` has the words that may precede a value of each class, as a regular
    expression over `functions` (words that belong to the following value). `rules` and `lists` are narrower forms of
    the source's, for sampling only. `repairs` (pattern, replacement) fix grammar that the templates leave open, such as
    "1 hours". `unreal` finds unnatural sentences.
    """

    values: Mapping[str, Mapping[str, Sequence[str]]]
    functions: str
    before: Mapping[str, str]
    rules: Mapping[str, str] = field(default_factory=dict)
    lists: Mapping[str, Sequence[str]] = field(default_factory=dict)
    repairs: Sequence[tuple[str, str]] = ()
    unreal: Sequence[str] = ()

    @cached_property
    def open(self) -> dict[str, list[Value]]:
        """The values of every open list, in their written order."""
        return {
            name: [
                Value(text.rstrip("".join(HELD_OUT)), kind, HELD_OUT.get(text[-1]))
                for kind, texts in kinds.items()
                for text in texts
            ]
            for name, kinds in self.values.items()
        }

    @cached_property
    def patterns(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        """The words before a marked value with the value, and unnatural sentences."""
        words = re.compile(rf"((?:\b(?:{self.functions})(?: |(?<=')))*){MARK.pattern}", re.IGNORECASE)
        return words, re.compile("|".join(self.unreal) or r"(?!)", re.IGNORECASE)


def load_household(language: str) -> Household:
    """Read `households/LANGUAGE.yaml`: the fields of a `Household`, and `parts` that its texts contain as <NAME>."""
    file = Path(__file__).parent / "households" / f"{language}.yaml"
    said = yaml.safe_load(file.read_text(encoding="utf-8"))
    parts: dict[str, str] = {}

    def fill(value: Any) -> Any:
        if isinstance(value, str):
            return re.sub(r"<([A-Z]+)>", lambda found: parts[found[1]], value)
        return [fill(v) for v in value] if isinstance(value, list) else {k: fill(v) for k, v in value.items()}

    for name, part in said.pop("parts", {}).items():  # a part may contain those before it
        parts[name] = fill(part)
    return Household(**fill(said))


class Draw:
    """A stream of choices that depends on `key` alone."""

    def __init__(self, key: str) -> None:
        self.key, self.count = key, 0

    def below(self, n: int) -> int:
        """Return a number from 0 to `n` - 1."""
        self.count += 1
        return int(digest(f"{self.key}/{self.count}")[:12], 16) % n

    def one(self, items: Sequence[T]) -> T:
        """Return one of `items`."""
        return items[self.below(len(items))]


@dataclass(frozen=True)
class Sampler:
    """Write sentences of one language. `Household` narrows its choices."""

    intents: Intents
    home: Household

    @cached_property
    def rules(self) -> dict[str, Expression]:
        """The expansion rules, those of the household first."""
        own = {name: parse_sentence(text, keep_text=True).expression for name, text in self.home.rules.items()}
        return {name: rule.expression for name, rule in self.intents.expansion_rules.items()} | own

    def sample(self, expression: Expression, domains: Sequence[str], split: str, key: str) -> str:
        """Return one marked sentence of `expression` for a split, with names of `domains`."""
        text = self._write(expression, domains, split, Draw(key))
        text = " ".join(text.split())
        for pattern, replacement in self.home.repairs:
            text = re.sub(pattern, replacement, text, flags=re.IGNORECASE)
        return text

    def _write(self, node: Expression, domains: Sequence[str], split: str, draw: Draw) -> str:
        if isinstance(node, TextChunk):
            return node.original_text
        if isinstance(node, RuleReference):
            return self._write(self.rules[node.rule_name], domains, split, draw)
        if isinstance(node, ListReference):
            return self._value(node, domains, split, draw)
        assert isinstance(node, Group)
        items: Sequence[Expression] = node.items
        if isinstance(node, Alternative):
            if node.is_optional and draw.below(2):
                return ""
            # The source also has words that speech recognisers misheard, which people do not say.
            items = [draw.one([item for item in items if not _misheard(item)])]
        elif isinstance(node, Permutation):
            items = sorted(items, key=lambda _: draw.below(1 << 20))
        return "".join(self._write(item, domains, split, draw) for item in items)

    def _value(self, node: ListReference, domains: Sequence[str], split: str, draw: Draw) -> str:
        name = node.list_name
        groups = [f"name/{domain}" for domain in domains] if name == "name" else [name]
        values = [v for group in groups for v in self.home.open.get(group, []) if v.only in (None, split)]
        if values:
            # Every second value of a held-out sentence does not occur in train.
            new = [value for value in values if value.only]
            value = draw.one(new if new and draw.below(2) else values)
            return f"{{{node.slot_name}:{value.kind}|{value.text}}}"
        if name in self.home.lists:
            return draw.one(self.home.lists[name])
        slots = self.intents.slot_lists[name]
        if isinstance(slots, RangeSlotList):
            number = draw.one(NUMBERS.get(name) or PERCENT)
            return f"{number:g}" if number >= slots.start else str(slots.start)
        assert isinstance(slots, TextSlotList), name
        return self._write(draw.one(slots.values).text_in, domains, split, draw)


def _misheard(node: Expression) -> bool:
    while isinstance(node, Group) and len(node.items) == 1:
        node = node.items[0]
    return isinstance(node, RuleReference) and (node.rule_name.endswith("_dirty") or "stt_fix" in node.rule_name)


def reads_well(marked: str, home: Household) -> bool:
    """Return whether the words before every value fit its class, and nothing in the sentence is `unreal`."""
    words, unreal = home.patterns
    if unreal.search(marked) or not 2 <= len(plain(marked).split()) <= MOST_WORDS:
        return False
    found = [(match[1].strip().casefold(), match[3]) for match in words.finditer(marked)]
    return all(re.fullmatch(home.before.get(kind, ".*"), before) for before, kind in found)


def plain(marked: str) -> str:
    """Return the sentence without marks."""
    return MARK.sub(lambda match: match[3], marked)


def marked_slots(marked: str) -> dict[str, Any]:
    """Return the values put into the sentence: {slot: text}."""
    return {match[1]: match[3] for match in MARK.finditer(marked)}
