"""Read the pinned packages, and the answers to findings about them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from softprompts.errors import UserError

import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ROOT / "constraints.txt"
REQUIREMENTS = ROOT / "requirements"
LOCKED = REQUIREMENTS / "locked.txt"
ANSWERS = REQUIREMENTS / "answers.yaml"


def read_pins(lines: Sequence[str], place: str) -> dict[str, str]:
    """Return the versions of lines such as `name==1.2`, by normalised name; comments and empty lines are left out.

    Args:
        lines: of a constraints file.
        place: name of the file in errors.

    Raises:
        UserError: a line does not pin a package.
    """
    found = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        name, version = _pin(text, f"{place}, line {number}")
        found[name] = version
    return found


def _pin(text: str, place: str) -> tuple[str, str]:
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        raise UserError(f'{place}: "{text}" is no requirement: {str(error).splitlines()[0]}') from None
    pinned = [one.version for one in requirement.specifier if one.operator == "=="]
    if len(pinned) != 1 or len(requirement.specifier) != 1:
        raise UserError(f'{place}: expected an exact version such as "{requirement.name}==1.2", found "{text}"')
    return canonicalize_name(requirement.name), pinned[0]


def pinned_versions(models: Sequence[str] = ()) -> dict[str, str]:
    """Return the versions of constraints.txt and of `models`, by normalised name, sorted."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    found = read_pins(lines, CONSTRAINTS.name) | read_pins(models, "the packages named")
    return dict(sorted(found.items()))


def answers(kind: str) -> dict[str, dict[str, Any]]:
    """Return the answers of requirements/answers.yaml about `vulnerabilities` or `licences`, by id or package."""
    found = yaml.safe_load(ANSWERS.read_text(encoding="utf-8"))
    return {str(name): answer for name, answer in (found.get(kind) or {}).items()}
