"""What a check has found: green, amber or red, with its remedy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Status = Literal["green", "amber", "red"]
WORST: tuple[Status, ...] = ("red", "amber", "green")


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Args:
        key: of the check, e.g. near_duplicates.
        title: its heading on the page.
        status: red stops a pipeline; amber is for a person to decide.
        found: what was found, in one or two sentences.
        remedy: what to do about it; empty if it is green.
        facts: the numbers behind it, as JSON values.
        table: rows of text by column, which the page shows.
    """

    key: str
    title: str
    status: Status
    found: str
    remedy: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    table: Sequence[Mapping[str, str]] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the finding as JSON values."""
        return asdict(self)


def worst(findings: Iterable[Finding]) -> Status:
    """Return the worst status of findings; green if there are none."""
    found = {finding.status for finding in findings}
    return next((status for status in WORST if status in found), "green")


def share(part: float, whole: float) -> float:
    """Return a part as a share of 1; 0 of nothing."""
    return part / whole if whole else 0.0


def percent(number: float) -> str:
    """Return a share of 1 in per cent: "12.5 %", with two digits more below 1 %."""
    return f"{100 * number:.2f} %" if 0 < number < 0.01 else f"{100 * number:.1f} %"


def places(found: Sequence[str], most: int = 3) -> str:
    """Return the first places of some, as "e.g. a.jsonl:1, a.jsonl:7"."""
    return f"e.g. {', '.join(found[:most])}" if found else ""
