"""All checks of a config and its plan, as a page and as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from softprompts import __version__
from softprompts.config.tools import ReadinessConfig
from softprompts.errors import UserError, logger
from softprompts.models.loading import kind_of, load_model_config
from softprompts.readiness import overlap, rows, sensitive, worth
from softprompts.readiness.findings import Finding, Status, worst
from softprompts.readiness.plan import Plan, accept, plan_findings, read_plan, rows_digest
from softprompts.readiness.settings import RecipeSettings, read_recipe
from softprompts.reports.pages.page import render
from softprompts.runs.folders import RESULT_FILE
from softprompts.system.files import one_line, write_atomically
from softprompts.tasks.task import Task, load_task, load_unmasked

from pandas import DataFrame

GENERATOR = "softprompts recipes/readiness.py"  # marks our own files, because no other file may be overwritten
TEMPLATE = Path(__file__).with_name("readiness.html.j2")
SCHEMA_VERSION = 1  # of the JSON; it increases if a field is removed or changes its meaning
SECTIONS = {
    "purpose": ("Purpose and people", ("people",)),
    "rights": ("Rights and privacy", ("personal_data", "secrets")),
    "rows": ("Rows", ("counts", "balance", "lengths", "languages")),
    "splits": (
        "Splits",
        ("duplicates", "leaked_rows", "near_duplicates", "conflicts", "authors", "time"),
    ),
    "worth": ("Target and cost", ("test_rows", "to_win", "cost")),
}
SIGNS = {"green": ("holds", "✓ green"), "amber": ("open", "! amber"), "red": ("fails", "✗ red")}
SIGNS["unchecked"] = ("faint", "– not checked")
# Fields of the plan that the page shows, and their names there.
SHOWN = {
    "goal": "goal",
    "intended_users": "intended users",
    "measured": "how it is measured",
    "cost_of_error": "a wrong answer costs",
    "fallback": "fallback",
    "owner": "owner",
    "data_owner": "data owner",
    "legal_basis": "legal basis",
}


@dataclass(frozen=True)
class Readiness:
    """The outcome of all checks.

    `task` has the rows without masks. `data_of_run` is the fingerprint of the rows as a run reads them.
    """

    settings: RecipeSettings
    plan: Plan
    task: Task
    findings: Sequence[Finding]
    data_of_run: Mapping[str, Any]

    @property
    def status(self) -> Status:
        """The worst status of all findings."""
        return worst(self.findings)

    def as_json(self) -> str:
        """Return the outcome as JSON text."""
        record = {
            "generator": f"{GENERATOR} {__version__}",
            "schema_version": SCHEMA_VERSION,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "status": self.status,
            "config": self.settings.path,
            "method": self.settings.method,
            "task": self.task.name,
            "data": self.task.fingerprint(),
            "data_of_run": self.data_of_run,
            "pii": self.settings.task.pii,
            "plan": asdict(self.plan),
            "findings": [finding.as_json() for finding in self.findings],
        }
        return json.dumps(record, indent=1, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Inputs:
    """The rows of a config. `raw` has them without masks, `task` as a run reads them, and `metric` is the plan's."""

    raw: Task
    task: Task
    metric: str


def read_inputs(settings: RecipeSettings, plan: Plan) -> Inputs:
    """Return the rows, and the name of the number that the plan's metric means.

    Raises:
        UserError: an error in rows or plan makes the checks impossible; with masks, a run could not read the rows.
    """
    # Unmasked: with masks all authors would look the same, and a refused row would hide later ones.
    raw = load_unmasked(settings.task)
    sensitive.check_kinds(plan)
    sensitive.check_names_of_columns(raw.splits)
    # A run refuses rows or reads them as they are, unless it masks them. Masks can make different rows the same.
    task = load_task(settings.task) if settings.task.pii == "mask" else raw
    metric = worth.metric_name(plan, task, settings.path)
    rows.check_not_single(task)
    return Inputs(raw, task, metric)


def assess(config: ReadinessConfig, settings: RecipeSettings) -> Readiness:
    """Return the outcome of all checks.

    Raises:
        UserError: as `read_plan`, `read_inputs` and `accept`; the base model does not exist; a given baseline does not
            fit.
    """
    plan = read_plan(config.plan)
    inputs = read_inputs(settings, plan)
    raw, task, metric = inputs.raw, inputs.task, inputs.metric
    plan = replace(plan, metric=metric)
    baseline: worth.Baseline | str = worth.NO_BASELINE_FOR_ENCODERS
    if kind_of(load_model_config(settings.model)) != "encoder":
        baseline = worth.baseline_of(settings, task, metric, config.baseline)
    measured = rows.measure(settings, task)
    shared = list(overlap.overlap_findings(task, raw, plan))
    ceiling = next(worth.ceiling_of(finding.facts) for finding in shared if finding.key == "conflicts")
    found = sensitive.personal_data(raw.splits, plan.time_column)
    findings = [
        *plan_findings(plan),
        *sensitive.sensitive_findings(plan, settings.task.pii, found, sensitive.secrets(raw.splits)),
        rows.counts(task, settings.method),
        rows.balance(task, metric),
        rows.lengths(task, measured),
        rows.languages(task),
        *shared,
        *worth.worth_findings(settings, plan, task, metric, baseline, ceiling),
        worth.cost(settings, measured, worth.measure_rate(settings)),
    ]
    of_run = task.fingerprint()
    return Readiness(settings, plan, raw, accept(plan, findings, rows_digest(of_run)), of_run)


def missing_baseline(config: ReadinessConfig) -> dict[str, Any] | None:
    """Return the arguments of recipes/hard_prompt.py that make the baseline; None if it exists already.

    Raises:
        UserError: as `assess`; the base model is an encoder, which has no hard prompt; the folder of the baseline has a
            finished run that is none.
    """
    settings, plan = read_recipe(config.config), read_plan(config.plan)
    inputs = read_inputs(settings, plan)
    if kind_of(load_model_config(settings.model)) == "encoder":
        raise UserError(f"readiness.run_baseline: {worth.NO_BASELINE_FOR_ENCODERS}")
    found = worth.baseline_of(settings, inputs.task, inputs.metric, config.baseline)
    if isinstance(found, worth.Baseline):
        return None
    if (folder := worth.baseline_folder(settings)).joinpath(RESULT_FILE).is_file():  # would end the recipe as finished
        raise UserError(f"readiness.run_baseline: {folder} has a finished run, move it away; {found}")
    return worth.baseline_arguments(settings, plan, inputs.task)


def write_readiness(config: ReadinessConfig) -> Status:
    """Run all checks, write readiness.html and readiness.json, and print a line per finding that is amber or red.

    Raises:
        UserError: as `assess`; one of the files exists and is not ours; full disk.
    """
    settings = read_recipe(config.config)
    folder = Path(config.output or Path(settings.run.output_dir).parent)
    page, record = folder / "readiness.html", folder / "readiness.json"
    for file in (page, record):
        _check_ours(file)
    found = assess(config, settings)
    with one_line(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomically(record, found.as_json())
    write_atomically(page, page_of(found))
    for finding in found.findings:
        if finding.status in ("amber", "red"):
            by = f" It is {finding.accepted_status}, accepted by {found.plan.owner}." if finding.accepted else ""
            logger.info(f"{finding.status}: {finding.title}: {finding.found}{by} {finding.remedy}")
    logger.info(f"{found.status}; written: {page} and {record.name}")
    return found.status


def _check_ours(file: Path) -> None:
    if not os.path.lexists(file):
        return
    head = b""
    if file.is_file():
        with one_line(file), file.open("rb") as stream:
            head = stream.read(2000)
    if GENERATOR.encode() not in head:
        raise UserError(f"readiness.output: {file} exists and was not written by this recipe; name another folder")


def page_of(found: Readiness) -> str:
    """Return the page: a section per group of findings, and the plan."""
    by_key = {finding.key: finding for finding in found.findings}
    groups = [(key, title, [by_key[name] for name in names]) for key, (title, names) in SECTIONS.items()]
    plan = found.plan
    fields = [(shown, getattr(plan, name)) for name, shown in SHOWN.items()]
    fields.insert(1, ("KPI", f"{plan.metric} of {plan.target} or more"))
    fields.append(("reviewers", ", ".join(plan.reviewers)))
    counts = {status: sum(f.status == status for f in found.findings) for status in SIGNS}
    return render(
        TEMPLATE,
        generator=GENERATOR,
        title=f"Readiness of {found.settings.path}",  # several configs may share a dataset
        origin=f"Data: {found.task.name}. Plan: {plan.path}. {datetime.now(UTC):%Y-%m-%d}. No data left this machine.",
        links=[(key, f"{SIGNS[worst(findings)][1][0]} {title}") for key, title, findings in groups],
        status=found.status,
        counts=counts,
        signs=SIGNS,
        groups=groups,
        owner=plan.owner,
        plan=DataFrame(fields, columns=["field", ""]),
        frame=lambda table: DataFrame(list(table)),
        worst=worst,
    )
