"""Make the JSON Schema of the commands from the slots that the source's templates can fill."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from hassil.expression import Alternative, Expression, Group, ListReference, RuleReference
from hassil.intents import Intents, RangeSlotList, SlotList, TextSlotList

Types = dict[str, dict[str, Any]]  # types of a slot: {"string": ..., "number": ..., "enum": ...}


def references(node: Expression, intents: Intents) -> Iterable[ListReference]:
    """Yield the list references of an expression, including those within rules."""
    if isinstance(node, ListReference):
        yield node
    elif isinstance(node, RuleReference):
        yield from references(intents.expansion_rules[node.rule_name].expression, intents)
    elif isinstance(node, Group | Alternative):
        for item in node.items:
            yield from references(item, intents)


def number(value: Any) -> Any:
    """Return whole floats as integers, and everything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _add(types: Types, slots: SlotList | None) -> None:
    """Add the values of a list (None: a name of the household) to the types of a slot."""
    if isinstance(slots, TextSlotList):
        values = [number(value.value_out) for value in slots.values]
        # A value with several meanings (a French "store") is not a string or number, and no row has it.
        types.setdefault("enum", {"enum": set()})["enum"].update(v for v in values if not isinstance(v, list))
    elif isinstance(slots, RangeSlotList):
        ends = sorted(int(end * (slots.multiplier or 1)) for end in (slots.start, slots.stop))
        kind = types.setdefault("number", {"type": "integer", "minimum": ends[0], "maximum": ends[1]})
        kind["minimum"], kind["maximum"] = min(kind["minimum"], ends[0]), max(kind["maximum"], ends[1])
        if slots.fraction_type:
            kind |= {"type": "number", "multipleOf": 0.5}
    else:
        types["string"] = {"type": "string", "minLength": 1}


def _slot(types: Types) -> dict[str, Any]:
    """Return the schema of one slot."""
    if "enum" in types:
        types = types | {"enum": {"enum": sorted(types["enum"]["enum"], key=lambda v: (isinstance(v, str), v))}}
    kinds = [types[name] for name in sorted(types)]
    return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}


def schema(languages: Mapping[str, Intents], info: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return the schema of {"intent": ..., "slots": {...}} for the intents `names`.

    `info` is the source's list of intents, with their slots and their required slots.
    """
    slots: dict[str, dict[str, Types]] = {name: defaultdict(dict) for name in names}
    for intents in languages.values():
        for name, found in slots.items():
            for block in intents.intents[name].data if name in intents.intents else []:
                for slot, value in block.slots.items():
                    found[slot].setdefault("enum", {"enum": set()})["enum"].add(value)
                for sentence in block.sentences:
                    for reference in references(sentence.expression, intents):
                        _add(found[reference.slot_name], intents.slot_lists.get(reference.list_name))
    each = []
    for name in sorted(slots):
        known = info[name].get("slots", {})
        allowed = {slot: _slot(slots[name][slot]) for slot in sorted(slots[name]) if slot in known}
        body: dict[str, Any] = {"type": "object", "properties": allowed, "additionalProperties": False}
        # The room of the microphone replaces an area, which is required only then.
        if required := sorted(slot for slot in allowed if known[slot].get("required") and slot != "area"):
            body["required"] = required
        same = {"properties": {"intent": {"const": name}}}
        each.append({"if": same, "then": {"properties": {"slots": body}}})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A command to a home",
        "type": "object",
        "properties": {"intent": {"enum": sorted(slots)}, "slots": {"type": "object"}},
        "required": ["intent", "slots"],
        "additionalProperties": False,
        "allOf": each,
    }
