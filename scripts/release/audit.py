"""Known vulnerabilities of the locked versions, as pip-audit finds them, and the answers to them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from scripts.release.pins import ANSWERS, LOCKED, ROOT, answers
from softprompts.errors import UserError, short

SERVICES = ("pypi", "osv")
SECONDS = 20  # a service has for one reply


@dataclass(frozen=True)
class Finding:
    """A known vulnerability of a pinned version: its ids, and the versions without it."""

    package: str
    version: str
    ids: tuple[str, ...]
    fixed_in: tuple[str, ...]

    def __str__(self) -> str:
        fixed = f", fixed in {' or '.join(self.fixed_in)}" if self.fixed_in else ", not fixed yet"
        return f"{self.package} {self.version}: {self.ids[0]}{fixed}"


def run() -> str:
    """Ask the services in turn for advisories; return a summary.

    Raises:
        UserError: no service can be reached, or a finding has no answer in requirements/answers.yaml.
    """
    reasons = []
    for service in SERVICES:
        report, reason = _ask(service)
        if report is not None:
            return judge(findings(report), answers("vulnerabilities"), len(report), service)
        reasons.append(f"{service} ({reason})")
    raise UserError(f"no package was audited: no service with advisories can be reached: {', '.join(reasons)}")


def judge(found: Iterable[Finding], answered: dict[str, Any], packages: int, service: str) -> str:
    """Return a summary, or raise a UserError if a finding has no answer or an answer no finding."""
    found = list(found)
    unanswered = [one for one in found if not set(one.ids) & set(answered)]
    if unanswered:
        raise UserError(
            f"{len(unanswered)} findings without an answer in {ANSWERS.relative_to(ROOT)}; update the package or add a "
            f"reason: {'; '.join(map(str, unanswered))}"
        )
    unused = sorted(set(answered) - {number for one in found for number in one.ids})
    if unused:
        raise UserError(f"{ANSWERS.relative_to(ROOT)}: {unused[0]} is found no longer; remove its answer")
    return f"{packages} packages asked at {service}: {len(found)} known vulnerabilities, each answered"


def findings(packages: Iterable[dict[str, Any]]) -> list[Finding]:
    """Return the findings of pip-audit's report."""
    return [
        Finding(one["name"], one["version"], (found["id"], *found.get("aliases", ())), tuple(found["fix_versions"]))
        for one in packages
        for found in one.get("vulns", ())
    ]


def _ask(service: str) -> tuple[list[dict[str, Any]] | None, str]:
    """Return the packages of pip-audit's report, or None and the reason why there is none."""
    command = [sys.executable, "-m", "pip_audit", "--require-hashes", "--disable-pip", "-r", str(LOCKED)]
    command += ["-f", "json", "-s", service, "--progress-spinner", "off", "--timeout", str(SECONDS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout.strip().startswith("{"):
        return None, short((done.stderr.strip().splitlines() or ["no output"])[-1])
    return answered_by(json.loads(done.stdout)["dependencies"])


def answered_by(packages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]] | None, str]:
    """Return the packages of a report, or None and a reason if the service left any out.

    pip-audit reports success if a service knows none of the packages, for example a service of a mirror.
    """
    skipped = [one["name"] for one in packages if "skip_reason" in one]
    if skipped:
        return None, f"knows {len(packages) - len(skipped)} of {len(packages)} packages, and not {skipped[0]}"
    return packages, ""
