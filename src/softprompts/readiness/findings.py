"""The outcome of a check: green, amber or red, with its remedy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from softprompts.data.sources import DATA_DIR, EMBEDDED_PREFIX
from softprompts.tasks.templates import Row

Status = Literal["green", "amber", "red", "unchecked"]
WORST: tuple[Status, ...] = ("red", "amber", "green")  # "unchecked" makes no page worse, and is no green point


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Args:
        key: name of the check, e.g. near_duplicates.
        title: heading on the page.
        status: red stops a pipeline; a person decides on amber; an unchecked point was not looked at.
        found: the outcome in one or two sentences.
        remedy: the remedy; empty if the status is green.
        facts: the numbers of the check, as JSON values.
        table: rows of text by column, for the page.
        accepted: the owner's reason to go on in spite of it, from the plan.
        accepted_status: the status that the owner accepted; empty without a reason.
    """

    key: str
    title: str
    status: Status
    found: str
    remedy: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    table: Sequence[Mapping[str, str]] = ()
    accepted: str = ""
    accepted_status: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the finding as JSON values."""
        return asdict(self)


def worst(findings: Iterable[Finding]) -> Status:
    """Return the worst status of findings; green without findings."""
    found = {finding.status for finding in findings}
    return next((status for status in WORST if status in found), "green")


def share(part: float, whole: float) -> float:
    """Return `part` as a share of `whole`; 0 if `whole` is 0."""
    return part / whole if whole else 0.0


def percent(number: float) -> str:
    """Return a share as a percentage: "12.5 %", below 1 % with one more digit."""
    return f"{100 * number:.2f} %" if 0 < number < 0.01 else f"{100 * number:.1f} %"


def place_of(row: Row) -> str:
    """Return the place of a row without the folders of this machine, because pages leave it."""
    place = row.place.removeprefix(f"{Path.cwd()}/")
    return EMBEDDED_PREFIX + row.place.removeprefix(f"{DATA_DIR}/") if row.place.startswith(f"{DATA_DIR}/") else place


def places(found: Sequence[str], most: int = 3) -> str:
    """Return the first few places, as "e.g. a.jsonl:1, a.jsonl:7"."""
    return f"e.g. {', '.join(found[:most])}" if found else ""
