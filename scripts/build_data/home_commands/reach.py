"""Which templates may give a text: a quick look, that passes over none which the recogniser would read it by.

The recogniser follows every template anew and keeps what each part of it found. This asks only where in the text a
part may end, and remembers the answer of each part and place: templates share most of their rules. White space,
hyphens and case are left out, lists of numbers and of free text may end anywhere, and parts of a permutation may come
twice; so more may pass than the recogniser reads, never less.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache

from hassil.expression import (
    Alternative,
    Expression,
    Group,
    ListReference,
    Permutation,
    RuleReference,
    Sentence,
    TextChunk,
)
from hassil.intents import SlotList, TextSlotList
from hassil.util import PUNCTUATION_STR, normalize_for_matching, remove_skip_words

Places = frozenset[int]
NOWHERE: Places = frozenset()


@cache
def squeezed(text: str) -> str:
    """Return what is compared of a text: all but white space, hyphens and underscores, casefolded."""
    return "".join(text.translate({ord("-"): None, ord("_"): None}).split()).casefold()


class Reach:
    """How far parts of the templates reach in one text."""

    def __init__(self, text: str, rules: Mapping[str, Sentence], lists: Mapping[str, SlotList]) -> None:
        self.text, self.rules, self.lists = squeezed(text), rules, lists
        self.last = len(self.text.rstrip(PUNCTUATION_STR))
        self.found: dict[tuple[int, int], Places] = {}

    def whole(self, node: Expression) -> bool:
        """Return whether the text may be one that `node` gives; signs at its end do not count."""
        return any(end >= self.last for end in self.ends(node, 0))

    def ends(self, node: Expression, start: int) -> Places:
        """Return where what `node` gives may end if it begins at `start`."""
        if isinstance(node, TextChunk):
            piece = squeezed(node.text)
            return frozenset({start + len(piece)}) if self.text.startswith(piece, start) else NOWHERE
        key = (id(node), start)  # the source keeps its parts as long as this lives
        if key not in self.found:
            self.found[key] = self._ends(node, start)
        return self.found[key]

    def _ends(self, node: Expression, start: int) -> Places:
        if isinstance(node, Alternative):
            return NOWHERE.union(*(self.ends(item, start) for item in node.items))
        if isinstance(node, RuleReference):
            return self.ends(self.rules[node.rule_name].expression, start)
        if isinstance(node, ListReference):
            slots = self.lists.get(node.list_name)
            if isinstance(slots, TextSlotList):
                return NOWHERE.union(*(self.ends(value.text_in, start) for value in slots.values))
            return frozenset(range(start, len(self.text) + 1))
        assert isinstance(node, Group), node
        places: Places = frozenset({start})
        for item in node.items:
            choices = node.items if isinstance(node, Permutation) else [item]
            places = NOWHERE.union(*(self.ends(choice, place) for place in places for choice in choices))
        return places


def heard(text: str, skipped: Iterable[str]) -> list[str]:
    """Return the forms in which the recogniser reads a text: with the words that it may skip, and without them."""
    said = normalize_for_matching(text).text
    sides = ((True, True), (True, False), (False, True))
    without = [remove_skip_words(said, skipped, ignore_whitespace=False, start=start, end=end) for start, end in sides]
    return list(dict.fromkeys([said, *without]))
