"""The licences of all pinned packages: `requirements/licences.csv`, read from the metadata of the installed ones."""

from __future__ import annotations

import csv
import io
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Any

from scripts.release.pins import ANSWERS, REQUIREMENTS, ROOT, answers, pinned_versions
from softprompts.errors import UserError
from softprompts.reports.tables import markdown_table
from softprompts.system.files import write_atomically

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CSV = REQUIREMENTS / "licences.csv"
LIBRARY, DEVELOPMENT = "library", "development"
# These need an answer: code under them, or linked with it, may have to be published under them as well.
STRONG = re.compile(r"(?<!L)GPL|(?<!Lesser )General Public License|proprietary", re.IGNORECASE)
# Licences that ask for a notice, or for changes of their own files only.
KNOWN = re.compile(
    r"\b(0BSD|Apache|BSD|CC0|HPND|ISC|LGPL|Lesser|MIT|MPL|Mozilla|PSF|Python Software Foundation|Unlicense|Zlib)",
    re.IGNORECASE,
)
LONGEST = 60  # characters of a licence's name; a longer text is the licence itself


@dataclass(frozen=True)
class Licence:
    """The licence of a package, and whether the library or only the development needs the package."""

    package: str
    version: str
    licence: str
    needed_by: str


def run(models: Sequence[str]) -> str:
    """Write the list; return a summary.

    Args:
        models: packages in addition to constraints.txt, as NAME==VERSION.

    Raises:
        UserError: a package is not installed in its pinned version, or its licence needs an answer that is missing.
    """
    pins = pinned_versions(models)
    installed = {name: _installed(name, version) for name, version in pins.items()}
    needed = closure(["softprompts"], installed) | {canonicalize_name(model.partition("==")[0]) for model in models}
    answered = answers("licences")
    rows = [
        Licence(name, pins[name], _licence(one, answered), LIBRARY if name in needed else DEVELOPMENT)
        for name, one in installed.items()
    ]
    check(rows, answered)
    write_atomically(CSV, as_csv(rows))
    library = sum(row.needed_by == LIBRARY for row in rows)
    return f"written: {CSV.relative_to(ROOT)}, {len(rows)} packages, of which the library needs {library}"


def check(rows: Iterable[Licence], answered: dict[str, dict[str, str]]) -> None:
    """Raise a UserError for a licence that needs an answer, and for an answer that no licence needs."""
    rows = list(rows)
    open_ones = [row for row in rows if needs_answer(row.licence) and row.package not in answered]
    if open_ones:
        named = ", ".join(f"{row.package} ({row.licence or 'not named'})" for row in open_ones)
        raise UserError(f"{ANSWERS.relative_to(ROOT)}: no answer about the licence of {named}")
    barred = [row for row in rows if STRONG.search(row.licence) and needs_answer(row.licence)]
    barred = [row for row in barred if row.needed_by == LIBRARY]
    if barred:
        raise UserError(f"the library may not need {barred[0].package}, which is under {barred[0].licence}")
    unused = sorted(set(answered) - {row.package for row in rows})
    if unused:
        raise UserError(f"{ANSWERS.relative_to(ROOT)}: {unused[0]} is not among the dependencies; remove its answer")


def needs_answer(licence: str) -> bool:
    """Return whether no alternative of a licence is a known one without conditions for other people's code."""
    return not any(KNOWN.search(one) and not STRONG.search(one) for one in re.split(r"\bOR\b", licence))


def closure(names: Iterable[str], installed: dict[str, Distribution]) -> set[str]:
    """Return the packages among `installed` that `names` need when they run, directly or through others."""
    found: set[str] = set()
    waiting = [(name, frozenset[str]()) for name in names]
    seen = set(waiting)
    while waiting:
        name, extras = waiting.pop()
        found.add(name)
        for text in distribution(name).requires or ():
            requirement = Requirement(text)
            wanted = (canonicalize_name(requirement.name), frozenset(requirement.extras))
            if wanted[0] in installed and wanted not in seen and _applies(requirement, extras):
                seen.add(wanted)
                waiting.append(wanted)
    return found & set(installed)


def _applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def _installed(name: str, version: str) -> Distribution:
    try:
        found = distribution(name)
    except PackageNotFoundError:
        raise UserError(f"{name} is not installed; `make setup LOCKED=1` installs all that is pinned") from None
    if found.version.partition("+")[0] != version:
        raise UserError(f"{name} is installed in version {found.version}, and pinned in {version}; run `make setup`")
    return found


def _licence(one: Distribution, answered: dict[str, dict[str, str]]) -> str:
    """Return the licence that an answer names, else that of the metadata."""
    own = answered.get(canonicalize_name(one.metadata["Name"]), {}).get("licence")
    said: Any = one.metadata
    return own or licence_of(said.get("License-Expression"), said.get_all("Classifier") or (), said.get("License"))


def licence_of(expression: str | None, classifiers: Iterable[str], field: str | None) -> str:
    """Return the licence that the metadata of a package name, or an empty text.

    Args:
        expression: SPDX expression of new metadata.
        classifiers: classifiers of the package; only those of licences are read.
        field: free text of old metadata; a long one is the text of a licence, not its name.
    """
    if expression:
        return expression
    named = [one.rpartition(" :: ")[2] for one in classifiers if one.startswith("License :: ")]
    named = [one for one in named if one != "OSI Approved"]
    if named:
        return ", ".join(named)
    first = (field or "").strip()
    return first if len(first) <= LONGEST and "\n" not in first else ""


def as_csv(rows: Iterable[Licence]) -> str:
    """Return the list as CSV, one package per line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(Licence)])
    writer.writerows(astuple(row) for row in rows)
    return text.getvalue()


def read_csv() -> list[Licence]:
    """Return the committed list."""
    with CSV.open(encoding="utf-8", newline="") as file:
        return [Licence(**row) for row in csv.DictReader(file)]


def table() -> str:
    """Return the committed list for a page: counts, the licences with an answer, and a folded table of all packages."""
    rows = read_csv()
    reasons = answers("licences")
    library = sum(row.needed_by == LIBRARY for row in rows)
    answered = [
        [row.package, row.licence, row.needed_by, reasons[row.package]["reason"]]
        for row in rows
        if needs_answer(row.licence)
    ]
    whole = markdown_table([field.name.replace("_", " ") for field in fields(Licence)], map(astuple, rows))
    parts = [
        f"The library needs {library} packages, its development {len(rows) - library} more. Licences with an answer:",
        markdown_table(["package", "licence", "needed by", "answer"], answered),
        f'??? note "All {len(rows)} packages"',
        textwrap.indent(whole, "    "),
    ]
    return "\n\n".join(parts)
