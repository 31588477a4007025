"""Make the governance record of a run: assemble all parts, check them against schemas, write the files."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Any

from softprompts import __version__
from softprompts.config.tools import GovernanceConfig
from softprompts.errors import UserError, logger
from softprompts.governance import cards, documents
from softprompts.governance.changes import change_log
from softprompts.governance.compute import compute_of
from softprompts.governance.documents import Known
from softprompts.governance.evidence import Evidence, read_readiness, read_rows, read_run, score_of
from softprompts.governance.groups import scores_by_group
from softprompts.governance.law import Duty, Law, Part, empty_answers, read_answers, read_law
from softprompts.metrics.scoring import Interval
from softprompts.readiness.plan import NO_DATA, Plan, read_plan
from softprompts.reports.pages.page import render
from softprompts.system.files import is_file, is_folder, one_line, read_bytes, write_atomically

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from pandas import DataFrame

HERE = Path(__file__).parent
GENERATOR = "softprompts recipes/governance.py"
SCHEMA_VERSION = 1  # of governance.json; another one for a field that goes or changes its meaning
FOLDER = "governance"  # in the folder of the run
ANSWERS = "answers.yaml"
SUMS = "SHA256SUMS"
PAGE, RECORD, CARD, CROISSANT = "governance.html", "governance.json", "model_card.md", "croissant.json"
FILES = (RECORD, PAGE, CARD, CROISSANT)
DIGEST = re.compile("[0-9a-f]{64}")


def write_governance(config: GovernanceConfig) -> Path:
    """Write the record of a run, and log what is open; return the page.

    Raises:
        UserError: run, plan, earlier run or readiness record cannot be read, or do not belong together; an answer is
            not valid; a file was changed by hand, or is not ours; full disk.
    """
    law = read_law()
    plan, evidence = read_plan(config.plan), read_run("governance.run", config.run)
    folder = Path(config.output_dir or evidence.folder / FOLDER)
    sums = _check_folder(folder)
    answers = read_answers(folder / ANSWERS, law)
    known = _gather(config, law, plan, evidence)
    _check_agreement(folder / ANSWERS, answers, known)
    record = assemble(known, answers, law)
    card = cards.croissant(known, folder, answers)
    check(RECORD, record)
    check(CROISSANT, card)
    contents = {
        RECORD: _as_json(record),
        PAGE: page_of(record, known),
        CARD: cards.model_card(known, law.notice, answers),
        CROISSANT: _as_json(card),
    }
    _write(folder, contents, sums)
    if not (folder / ANSWERS).exists():
        write_atomically(folder / ANSWERS, empty_answers(law))
    logger.info(
        f"{len(record['open_questions'])} of {len(law.points)} questions are open; answer them in {folder / ANSWERS}, "
        "and run this again"
    )
    logger.info(f"written: {folder / PAGE}, {', '.join(FILES[:1] + FILES[2:])}")
    return folder / PAGE


def _gather(config: GovernanceConfig, law: Law, plan: Plan, evidence: Evidence) -> Known:
    """Read what else the record is made of."""
    before = read_run("governance.before", config.before) if config.before else None
    rows = read_rows(evidence)
    plan = replace(plan, metric=score_of(plan, evidence, rows))
    readiness, missing = read_readiness("governance.readiness", config.readiness, evidence)
    return Known(
        evidence=evidence,
        rows=rows,
        plan=plan,
        readiness=readiness,
        readiness_missing=missing,
        compute=compute_of(evidence, law, config),
        by_group=scores_by_group(evidence, rows, plan, config.groups),
        changes=change_log(before, evidence, rows.task, "governance.before") if before else None,
    )


def _check_agreement(file: Path, answers: Mapping[str, str], known: Known) -> None:
    """Raise `UserError` if the answer about personal data contradicts the plan.

    The answer may be yes if the evidence contradicts the plan too; the record states it.
    """
    said, basis = answers.get("personal_data"), known.plan.legal_basis
    if said == "yes" and documents.contradiction(known):
        return
    if said and (said == "no") != (basis == NO_DATA):
        raise UserError(
            f'{file}: personal_data: {said} contradicts the legal_basis "{basis}" in {known.plan.path}; correct one'
        )


def assemble(known: Known, answers: Mapping[str, str], law: Law) -> dict[str, Any]:
    """Return the content of governance.json."""
    evidence, result = known.evidence, known.evidence.result
    questions = [point.key for point in law.points.values() if point.key not in answers]
    return {
        "generator": f"{GENERATOR} {__version__}",
        "schema_version": SCHEMA_VERSION,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "notice": law.notice,
        "law_checked": {"date": law.checked, "how": law.how},
        "run": {
            "folder": str(evidence.folder),
            "version": evidence.version,
            "result_sha256": evidence.digest,
            "recipe": result.recipe,
            "method": known.method,
            "task": result.task,
            "base_model": evidence.base,
            "seed": result.seed,
            "commit": result.environment["commit"],
            "finished": result.finished,
            "parameters": result.parameters,
        },
        "plan": asdict(known.plan),
        "readiness": known.readiness,
        "open_questions": questions,
        "duties": [_duty(duty, answers, known) for duty in law.duties],
        "compute": asdict(known.compute)
        | {"thresholds": {key: asdict(threshold) for key, threshold in law.thresholds.items()}},
        "parts": {key: _part(part, known, answers) for key, part in law.parts.items()},
        "transparency_note": documents.transparency_note(known, answers),
        "evaluation": _evaluation(known),
        "changes": _changes(known),
        "data": {
            "licence": result.data["licence"],
            "splits": evidence.splits,
            "changed_since_run": list(known.rows.changed),
            "missing": known.rows.missing,
        },
        "sources": {key: asdict(source) for key, source in law.sources.items()},
    }


def _part(part: Part, known: Known, answers: Mapping[str, str]) -> dict[str, Any]:
    points = [
        {
            "key": point.key,
            "reference": point.reference,
            "title": point.title,
            "known": [line for name in point.known for line in documents.FACTS[name](known)],
            "question": point.question,
            "choices": list(point.choices),
            "answer": answers.get(point.key),
        }
        for point in part.points
    ]
    return {"title": part.title, "source": part.source, "points": points}


def _duty(duty: Duty, answers: Mapping[str, str], known: Known) -> dict[str, Any]:
    """Return a duty with its state today: whether it applies already, and whether it concerns this system."""
    today = datetime.now(UTC).date()
    state = "applies" if date.fromisoformat(duty.applies_from) <= today else "applies later"
    return asdict(duty) | {"state": state, "for_you": _for_you(duty, answers, known)}


def _for_you(duty: Duty, answers: Mapping[str, str], known: Known) -> str:
    """Return whether a duty concerns this system, by the answers and, for models, by the compute."""
    if duty.key == "gpai":
        above, general = known.compute.verdict, known.compute.base_is_general
        if above == "unknown" or (general is None and above == "above"):
            return "open"
        return "no" if above == "below" or general is False else "yes"
    verdicts = [answers[key] in wanted if key in answers else None for key, wanted in duty.concerns.items()]
    if False in verdicts:
        return "no"
    return "open" if None in verdicts else "yes"


def _evaluation(known: Known) -> dict[str, Any]:
    result, found = known.evidence.result, known.by_group
    return {
        "split": known.evidence.split,
        "metrics": {name: asdict(score) for name, score in result.metrics.items()},
        "baselines": {n: {k: asdict(x) for k, x in scores.items()} for n, scores in result.baselines.items()},
        "groups": [asdict(group) | {"few_rows": group.few} for group in found.groups],
        "columns": list(found.columns),
        "no_groups_because": found.reason,
    }


def _changes(known: Known) -> dict[str, Any] | None:
    log = known.changes
    if log is None:
        return None
    return {
        "before": {
            "folder": str(log.before.folder),
            "version": log.before.version,
            "result_sha256": log.before.digest,
            "finished": log.before.result.finished,
        },
        "changes": [asdict(change) for change in log.changes],
        "scores": [asdict(score) for score in log.scores],
        "scores_note": log.scores_note,
    }


@cache
def _validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads((HERE / name.replace(".json", ".schema.json")).read_text(encoding="utf-8")))


def check(name: str, content: Mapping[str, Any]) -> None:
    """Check the content of a file against its schema in this folder; a violation is a mistake of ours."""
    if error := best_match(_validator(name).iter_errors(content)):
        raise AssertionError(f"{name}: {'.'.join(map(str, error.absolute_path))}: {error.message}")


def _as_json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def page_of(record: Mapping[str, Any], known: Known) -> str:
    """Return the page with all parts."""
    sections = {
        "duties": "Duties and dates",
        "compute": "Compute",
        "evaluation": "Evaluation",
        "changes": "Changes",
        **{key: part["title"] for key, part in record["parts"].items()},
        "sources": "Sources",
    }
    run = record["run"]
    return render(
        HERE / "governance.html.j2",
        generator=GENERATOR,
        title=f"Governance record of {run['task']}, version {run['version']}",
        origin=f"{run['folder']} and {known.plan.path}, {record['made'][:10]}. Nothing has left this machine.",
        links=list(sections.items()),
        record=record,
        text=documents,
        kpi=documents.FACTS["kpi"](known),
        frame=lambda rows, columns: DataFrame(list(rows), columns=list(columns)),
        table=_tables(known),
        sources=[[s["key"], s["title"], s["url"], s["checked"], _seen(s)] for s in record["sources"].values()],
    )


def _seen(source: Mapping[str, str]) -> str:
    return f"{source['seen']}: {source['seen_at']}" if source["seen_at"] else source["seen"]


def _tables(known: Known) -> dict[str, list[list[str]]]:
    """Return the rows of the page's tables."""
    number, result, log = documents.number, known.evidence.result, known.changes
    scores = [
        [kind, name, *_score(found)]
        for kind, metrics in {"this run": result.metrics, **result.baselines}.items()
        for name, found in metrics.items()
    ]
    groups = [
        [f"{group.value}{' (few rows)' if group.few else ''}", group.column, name, *_score(found)]
        for group in known.by_group.groups
        for name, found in group.metrics.items()
    ]
    compared = [
        [
            score.metric,
            number(score.was),
            number(score.now),
            documents.difference(score, score.difference),
            "-" if score.low is None else " to ".join(documents.difference(score, x) for x in (score.low, score.high)),
            "-" if score.p is None else f"{score.p:.2g}",
            score.meaning,
        ]
        for score in (log.scores if log else ())
    ]
    changed = [[c.kind, c.key, c.was, c.now] for c in (log.changes if log else ())]
    return {"scores": scores, "groups": groups, "compared": compared, "changed": changed}


def _score(found: Interval) -> list[str]:
    return [documents.number(found.value), documents.bounds(found), f"{found.rows:,}"]


def _check_folder(folder: Path) -> dict[str, set[str]]:
    """Return the checksums of the files that this recipe wrote into a folder before.

    Raises:
        UserError: the folder is a file; a file of ours was changed by hand; another file has one of our names.
    """
    if os.path.lexists(folder) and not is_folder(folder):
        raise UserError(f"governance.output_dir: {folder} is not a folder; name another one")
    sums = _read_sums(folder / SUMS)
    for name in FILES:
        file = folder / name
        if not os.path.lexists(file):
            continue
        if name not in sums:
            raise _not_ours(file)
        if hashlib.sha256(read_bytes(file)).hexdigest() not in sums[name]:
            raise UserError(
                f"governance.output_dir: {file} was changed by hand, and would be overwritten; put answers into "
                f"{ANSWERS} and move the file away, or name another folder"
            )
    return sums


def _read_sums(file: Path) -> dict[str, set[str]]:
    """Return the checksums in a file of ours by name, which are those of all `FILES`; none without the file.

    Raises:
        UserError: the file is not ours.
    """
    sums: dict[str, set[str]] = {}
    if not os.path.lexists(file):
        return sums
    lines = read_bytes(file).decode("utf-8", "replace").splitlines() if is_file(file) else []
    for line in lines:
        digest, _, name = line.partition("  ")
        sums.setdefault(name if DIGEST.fullmatch(digest) else line, set()).add(digest)
    if set(sums) != set(FILES):
        raise _not_ours(file)
    return sums


def _not_ours(file: Path) -> UserError:
    return UserError(f"governance.output_dir: {file} exists and was not written by this recipe; name another folder")


def _write(folder: Path, contents: Mapping[str, str], sums: Mapping[str, set[str]]) -> None:
    """Write the files. In between, the checksums of old and new are valid, so that a killed process blocks nothing."""
    with one_line(folder):
        folder.mkdir(parents=True, exist_ok=True)
    new = {name: {hashlib.sha256(text.encode()).hexdigest()} for name, text in contents.items()}
    write_atomically(folder / SUMS, "".join(_sum_lines(new | {n: new[n] | sums.get(n, set()) for n in new})))
    for name, text in contents.items():
        write_atomically(folder / name, text)
    write_atomically(folder / SUMS, "".join(_sum_lines(new)))


def _sum_lines(sums: Mapping[str, set[str]]) -> Iterator[str]:
    for name, digests in sums.items():
        yield from (f"{digest}  {name}\n" for digest in sorted(digests))
