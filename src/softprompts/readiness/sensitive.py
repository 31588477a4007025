"""Find personal data and secrets in the rows of a task. No finding repeats a value, because pages may be shared."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from softprompts.errors import UserError, listed, nearest
from softprompts.readiness.findings import Finding, Status, place_of, places
from softprompts.readiness.plan import NO_DATA, Plan
from softprompts.tasks.privacy import check_column_names, kinds, kinds_by_column, texts_in
from softprompts.tasks.templates import Row

# Keys whose form detect-secrets does not know.
KEYS = {
    name: re.compile(rf"(?<![\w-]){form}")
    for name, form in {
        "GitHub Token": r"github_pat_\w{20,}",
        "Hugging Face Token": "hf_[A-Za-z0-9]{20,}",
        "Google API Key": r"AIza[\w-]{35}",
        "Anthropic API Key": r"sk-ant-[\w-]{20,}",
        "OpenAI Token": r"sk-(proj|svcacct|admin)-[\w-]{20,}",
    }.items()
}
# A word for a secret, and a value with a digit, as in "password: hunter2". It may be an example, so a person decides.
# detect-secrets' own detector of words needs quotation marks, or else also finds "password: please help".
NAMED = "value named as a secret"
NAMED_VALUE = re.compile(
    r"(password|passwort|passwd|passphrase|(?<![a-z])(pwd|secret)|(api|access|secret|private|auth)[_ -]?key"
    r"|(auth|access|api|bearer)[_ -]?token)(\s*[:=]+\s*|\s+is\s+)[\"']?(?=[^\s\"']*\d)[^\s\"'<{$]{6,}",
    re.IGNORECASE,
)

Found = dict[tuple[str, str, str], list[str]]  # places by split, column and kind


def check_names_of_columns(splits: Mapping[str, Sequence[Row]]) -> None:
    """Raise `UserError` for personal data in the name of a column."""
    seen: set[tuple[str, ...]] = set()
    for rows in splits.values():
        for row in rows:
            names = tuple(row.record)
            if names not in seen:
                check_column_names(row.place, names)
                seen.add(names)


def check_kinds(plan: Plan) -> None:
    """Raise `UserError` if the plan names a kind of personal data that no recogniser finds."""
    for kind in plan.personal_data:
        if kind not in kinds():
            raise UserError(f'{plan.path}: personal_data: unknown kind "{kind}"{nearest(kind, kinds())}')


def personal_data(splits: Mapping[str, Sequence[Row]], time_column: str | None) -> Found:
    """Return the places of personal data, one per row. The plan's column of times has none."""
    return _scan(splits, lambda r: kinds_by_column({name: value for name, value in r.items() if name != time_column}))


def secrets(splits: Mapping[str, Sequence[Row]]) -> Found:
    """Return the places of secrets, such as keys of cloud services, one per row."""
    return _scan(splits, _secrets_by_column)


def _scan(splits: Mapping[str, Sequence[Row]], find: Callable[[Any], Mapping[str, Counter[str]]]) -> Found:
    found: Found = {}
    for split, rows in splits.items():
        for row in rows:
            for column, counts in find(row.record).items():
                for kind in counts:
                    found.setdefault((split, column, kind), []).append(place_of(row))
    return found


def _secrets_by_column(record: Mapping[str, Any]) -> dict[str, Counter[str]]:
    counts = {
        column: Counter(kind for text, name in texts_in(value, column) for kind in _secrets_in(text, name))
        for column, value in record.items()
    }
    return {column: found for column, found in counts.items() if found}


def _secrets_in(text: str, name: str) -> set[str]:
    """Return the kinds of secrets in a text of a column or key with this name."""
    found = {detector.secret_type for detector in _detectors() if any(detector.analyze_string(text))}
    found |= {kind for kind, form in KEYS.items() if form.search(text)}
    return found or ({NAMED} if NAMED_VALUE.search(f"{name}: {text}") else set())


@cache
def _detectors() -> list[Any]:
    """Return the detectors of detect-secrets that look for the form of a secret; they do not contact a service."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    from detect_secrets.plugins.base import RegexBasedDetector
    from detect_secrets.plugins.ip_public import IPPublicDetector

    known: Any = get_mapping_from_secret_type_to_class().values()
    return [kind() for kind in known if issubclass(kind, RegexBasedDetector) and kind is not IPPublicDetector]


def _table(found: Found) -> list[dict[str, str]]:
    return [
        {"kind": kind, "split": split, "column": column, "rows": f"{len(rows):,}", "first rows": ", ".join(rows[:3])}
        for (split, column, kind), rows in found.items()
    ]


def _facts(found: Found) -> dict[str, Any]:
    rows = [{"split": s, "column": c, "kind": k, "rows": len(p), "first": p[:3]} for (s, c, k), p in found.items()]
    return {"found": rows}


def sensitive_findings(plan: Plan, handling: str, found: Found, secret: Found) -> Iterator[Finding]:
    """Yield the findings on personal data and secrets.

    Args:
        plan: the plan, with the legal basis and the kinds that it covers.
        handling: the value of `task.pii`.
        found: places of personal data in the unmasked rows.
        secret: places of secrets.
    """
    yield _personal(plan, handling, found)
    yield _secrets(secret)


def _secrets(secret: Found) -> Finding:
    if not secret:
        said = f"No row contains a key, token or password of a known form. {NOT_FOUND}"
        return Finding("secrets", "Secrets", "green", said)
    kinds_found = {kind for _, _, kind in secret}
    first = [place for rows in secret.values() for place in rows]
    said = f"{len(set(first)):,} rows contain secrets ({listed(sorted(kinds_found))}), {places(first)}. {NOT_FOUND}"
    facts, table = _facts(secret), _table(secret)
    if kinds_found == {NAMED}:
        remedy = "Look at these rows. Remove passwords and keys that are in use: a trained model may repeat them."
        status: Status = "amber"
    else:
        status, remedy = "red", "Revoke those in use, and remove them from the data: a trained model may repeat them."
    return Finding("secrets", "Secrets", status, said, remedy, facts, table)


NOT_FOUND = "Passwords that no word such as password names are not found, nor those without a digit."
LIMITS = "Patterns do not find names of people or places."


def _personal(plan: Plan, handling: str, found: Found) -> Finding:
    title = "Personal data"
    if not found:
        return Finding("personal_data", title, "green", f"No row contains personal data of a known form. {LIMITS}")
    names = sorted({kind for _, _, kind in found})
    rows = {place for of_kind in found.values() for place in of_kind}
    said = f"Rows with personal data: {len(rows):,} ({listed(names)})."
    facts, table = _facts(found), _table(found)
    if handling == "mask":
        said += f" task.pii masks them in every split. {LIMITS}"
        if plan.legal_basis == NO_DATA:
            remedy = "Give the legal basis for masking in readiness.yaml: masking is processing (Article 4(2) GDPR)."
            return Finding("personal_data", title, "amber", said, remedy, facts, table)
        return Finding("personal_data", title, "green", said, "", facts, table)
    if handling == "refuse":
        remedy = "Remove these rows, or set task.pii to mask: with refuse, training stops at the first of them."
        return Finding("personal_data", title, "red", said, remedy, facts, table)
    if plan.legal_basis == NO_DATA:
        remedy = "Set task.pii to mask, or correct legal_basis in readiness.yaml, which states that there are none."
        return Finding("personal_data", title, "red", said, remedy, facts, table)
    if uncovered := [name for name in names if name not in plan.personal_data]:
        remedy = (
            f"Set task.pii to mask. If the legal basis ({plan.legal_basis}) covers them, list {listed(uncovered)} "
            "under personal_data in readiness.yaml."
        )
        return Finding("personal_data", title, "red", said, remedy, facts, table)
    remedy = "Set task.pii to mask unless the task needs the values: a trained model may repeat them."
    return Finding(
        "personal_data", title, "amber", f"{said} The plan covers them ({plan.legal_basis}).", remedy, facts, table
    )
