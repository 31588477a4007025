"""Read `readiness.yaml`: the goal of a model, who is responsible for it, and the legal basis for using the data."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from softprompts.config.yaml_files import tree_of
from softprompts.data.values import is_no_answer
from softprompts.data.without import normalised
from softprompts.errors import UserError, listed, nearest, short
from softprompts.readiness.findings import Finding

NO_DATA = "no personal data"
# Article 6(1) of the GDPR, (a) to (f), and data of no person.
LEGAL_BASES = (
    "consent",
    "contract",
    "legal obligation",
    "vital interests",
    "public task",
    "legitimate interests",
    NO_DATA,
)
# Points that protect other people than the owner.
NEVER_ACCEPTED = ("secrets", "personal_data")
TEXTS = ("goal", "owner", "data_owner", "legal_basis", "intended_users", "cost_of_error", "fallback")
OPTIONAL = ("personal_data", "time_column", "author_column", "wordings", "shots", "accepted")
PLACEHOLDERS = ("todo", "tbd", "tba", "tbc", "fixme", "xxx")
KPI, OPTIONAL_KPI = ("metric", "target", "measured"), ("today",)


@dataclass(frozen=True)
class Plan:
    """The content of `readiness.yaml`.

    Args:
        path: path of the file.
        goal: the purpose of the model, and who benefits from it.
        metric: the number that measures the goal; in the file also a metric of the task, whose first number is meant.
        target: value of the metric that is good enough, above 0 and at most 1.
        measured: where, when and by whom the metric is measured.
        owner: person who is responsible for the model.
        reviewers: people who review data and results.
        data_owner: person who is responsible for the data.
        legal_basis: one of `LEGAL_BASES`.
        intended_users: users of the answers.
        cost_of_error: cost of a wrong answer.
        fallback: the procedure if the model cannot be used.
        today: value of the metric that today's process reaches; None if it was not measured.
        personal_data: kinds of personal data that the legal basis covers, e.g. [EMAIL_ADDRESS].
        time_column: column with the time of a row; None without such a column.
        author_column: column with the person or customer that a row comes from; None without such a column.
        wordings: prompt templates for the hard-prompt baseline; by default the goal provides one.
        shots: few-shot examples in each prompt of the baseline.
        accepted: the owner's reasons to go on in spite of red points, by the key of the point, e.g. near_duplicates.
        accepted_rows: the digest of the rows that each reason was given for, by the same keys; a reason without one
            counts for no rows.
    """

    path: str
    goal: str
    metric: str
    target: float
    measured: str
    owner: str
    reviewers: list[str]
    data_owner: str
    legal_basis: str
    intended_users: str
    cost_of_error: str
    fallback: str
    today: float | None = None
    personal_data: list[str] = field(default_factory=list)
    time_column: str | None = None
    author_column: str | None = None
    wordings: list[str] = field(default_factory=list)
    shots: int = 4
    accepted: dict[str, str] = field(default_factory=dict)
    accepted_rows: dict[str, str] = field(default_factory=dict)


def read_plan(path: str) -> Plan:
    """Read `readiness.yaml`.

    Raises:
        UserError: no such file; malformed YAML; an unknown field; missing or empty fields, listed in one line; a value
            that its field does not allow.
    """
    tree = tree_of(Path(path), path)
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected fields such as goal and kpi, found {'nothing' if tree is None else 'none'}")
    _check_names(path, tree, (*TEXTS, "kpi", "reviewers", *OPTIONAL), "")
    kpi = tree.get("kpi")
    if kpi is not None and not isinstance(kpi, dict):
        raise UserError(f"{path}: kpi: expected the fields {listed(KPI)}, found {short(kpi)}")
    kpi = kpi or {}
    _check_names(path, kpi, (*KPI, *OPTIONAL_KPI), "kpi.")
    _check_answered(path, tree, kpi)
    basis = _text(path, "legal_basis", tree["legal_basis"]).strip().casefold()
    if basis not in LEGAL_BASES:
        raise UserError(f'{path}: legal_basis: unknown basis "{short(basis)}"{nearest(basis, LEGAL_BASES)}')
    reasons, accepted_rows = _accepted(path, tree.get("accepted") or {})
    return Plan(
        path=path,
        **{name: _text(path, name, tree[name]).strip() for name in TEXTS if name != "legal_basis"},
        legal_basis=basis,
        metric=_text(path, "kpi.metric", kpi["metric"]),
        measured=_text(path, "kpi.measured", kpi["measured"]),
        target=_number(path, "kpi.target", kpi["target"], above_zero=True),
        today=None if kpi.get("today") is None else _number(path, "kpi.today", kpi["today"], above_zero=False),
        reviewers=_texts(path, "reviewers", tree["reviewers"]),
        personal_data=_texts(path, "personal_data", tree.get("personal_data") or []),
        wordings=_texts(path, "wordings", tree.get("wordings") or []),
        shots=_count(path, "shots", tree.get("shots", Plan.shots)),
        accepted=reasons,
        accepted_rows=accepted_rows,
        **{n: _text(path, n, tree[n]) for n in ("time_column", "author_column") if tree.get(n) is not None},
    )


def _check_names(path: str, tree: dict[Any, Any], valid: tuple[str, ...], prefix: str) -> None:
    for name in tree:
        if name not in valid:
            raise UserError(f'{path}: unknown field "{prefix}{short(name)}"{nearest(str(name), valid, prefix)}')


def _check_answered(path: str, tree: dict[str, Any], kpi: dict[str, Any]) -> None:
    """Raise `UserError` with all required fields that have no answer."""
    given = {name: tree.get(name) for name in (*TEXTS, "reviewers")} | {f"kpi.{name}": kpi.get(name) for name in KPI}
    missing = [name for name, value in given.items() if _is_empty(value)]
    if missing:
        raise UserError(f"{path}: missing or empty: {listed(missing)}")
    for name, value in given.items():
        # `legal_basis` has a list of valid answers, which its own message names.
        if name != "legal_basis" and any(map(is_no_answer, value if isinstance(value, list) else [value])):
            raise UserError(f"{path}: {name}: {short(value)} is no answer; write a sentence, or a person's role")


def _is_empty(value: Any) -> bool:
    """Return whether a field has no answer yet, or a list of people a place without a name."""
    if isinstance(value, list):
        return not value or any(map(_is_empty, value))
    return value is None or (isinstance(value, str) and is_placeholder(value))


def is_placeholder(text: str) -> bool:
    """Return whether a text holds no answer: it has no letter or digit, or is a word such as TODO, also with a note.

    "TODO: ask legal" is one; "Todo el equipo" and "TBC Bank" are answers.
    """
    if not re.search(r"\w", text.replace("_", " ")):
        return True
    return re.match(rf"\W*({'|'.join(PLACEHOLDERS)})\W*($|[:;.,(-])", text.strip(), re.IGNORECASE) is not None


def _text(path: str, name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UserError(f"{path}: {name}: expected text, found {short(value)}; quote it")
    return value


def _texts(path: str, name: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
        raise UserError(f"{path}: {name}: expected a list of texts, found {short(value)}")
    return value


def _accepted(path: str, value: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Return the reasons and the digests of rows by point; a reason alone is a text."""
    if not isinstance(value, dict):
        raise UserError(f"{path}: accepted: expected points with reasons, found {short(value)}")
    reasons: dict[str, str] = {}
    rows: dict[str, str] = {}
    for key, given in value.items():
        name = f"accepted.{short(key)}"
        if key in NEVER_ACCEPTED:
            raise UserError(f"{path}: {name}: no reason settles this point; remove it, and follow the point's remedy")
        own = given if isinstance(given, dict) else {"reason": given}
        _check_names(path, own, ("reason", "rows"), f"{name}.")
        reason = own.get("reason")
        if not isinstance(reason, str) or is_placeholder(reason) or is_no_answer(reason):
            raise UserError(f"{path}: {name}: expected a reason, found {short(reason)}")
        reasons[str(key)] = reason.strip()
        if "rows" in own:
            rows[str(key)] = _text(path, f"{name}.rows", own["rows"]).strip()
    return reasons, rows


def rows_digest(fingerprint: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the name of a task's rows for an acceptance; it begins with a letter, so that YAML reads a text."""
    digest = hashlib.sha256("".join(split["sha256"] for split in fingerprint.values()).encode())
    return f"rows-{digest.hexdigest()[:12]}"


def accept(plan: Plan, findings: Sequence[Finding], rows: str) -> list[Finding]:
    """Return the findings with the owner's reasons; a red point that is accepted becomes amber.

    Args:
        plan: the plan with the reasons.
        findings: the findings.
        rows: the `rows_digest` of the rows; a reason counts only for the rows that it was given for.

    Raises:
        UserError: the plan accepts a point that does not exist.
    """
    known = [finding.key for finding in findings]
    for key in plan.accepted:
        if key not in known:
            raise UserError(f'{plan.path}: accepted: no point "{short(key)}"{nearest(key, known)}')
    return [_accept(plan, f, rows) if f.status in ("amber", "red") else f for f in findings]


def _accept(plan: Plan, finding: Finding, rows: str) -> Finding:
    if finding.key not in plan.accepted:
        return finding
    if (given := plan.accepted_rows.get(finding.key)) == rows:
        reason = plan.accepted[finding.key]
        return replace(finding, accepted=reason, accepted_status=finding.status, status="amber")
    which = "other rows" if given else "no particular rows"
    remedy = (
        f"The reason in {plan.path} was given for {which}. If it holds for these, write rows: {rows} below "
        f"accepted.{finding.key}, and the reason as its field reason."
    )
    return replace(finding, remedy=f"{finding.remedy} {remedy}")


def _number(path: str, name: str, value: Any, above_zero: bool) -> float:
    fits = isinstance(value, int | float) and not isinstance(value, bool)
    if not fits or not 0 <= value <= 1 or (above_zero and not value):
        least = "above 0" if above_zero else "from 0"
        raise UserError(f"{path}: {name}: expected a number {least} to 1, found {short(value)}; 90 % is 0.9")
    return float(value)


def _count(path: str, name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UserError(f"{path}: {name}: expected a whole number from 0, found {short(value)}")
    return value


def plan_findings(plan: Plan) -> Iterator[Finding]:
    """Yield the findings on the plan itself."""
    others = [name for name in plan.reviewers if normalised(name) != normalised(plan.owner)]
    people = f"{plan.owner} is responsible for the model, {plan.data_owner} for the data."
    if others:
        yield Finding("people", "People", "green", f"{people} Reviewed by {listed(plan.reviewers)}.")
    else:
        yield Finding(
            "people",
            "People",
            "amber",
            f"{people} Only the owner reviews it.",
            "Name a second person as a reviewer in readiness.yaml.",
        )
