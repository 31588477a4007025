"""Locked versions, advisories, licences and the check of a release: valid input, refusals and output."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from helpers import ROOT
from scripts.release import audit, check, licences, lock, pins
from scripts.release.__main__ import main
from scripts.release.licences import DEVELOPMENT, LIBRARY, Licence
from softprompts import __version__
from softprompts.errors import UserError

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

MODELS = re.findall(r"^MODELS += (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[0].split()
ENTRY = re.compile(r"^(\S+)==(\S+?)( ; .+?)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE)


def entries(path: Path) -> dict[str, tuple[str, set[str]]]:
    """Return version and checksums of each package in a locked file."""
    text = path.read_text(encoding="utf-8")
    found = {m[1]: (m[2], set(re.findall(r"sha256:\w+", m[4]))) for m in ENTRY.finditer(text)}
    assert len(found) == len(re.findall("^[^#\\s]", text, re.MULTILINE)), "each line is read"
    return found


# Pins


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("numpy>=2", r'a\.txt, line 2: expected an exact version such as "numpy==1\.2", found "numpy>=2"'),
        ("numpy==2,!=3", "expected an exact version"),
        ("numpy = 2", r'a\.txt, line 2: "numpy = 2" is no requirement'),
    ],
)
def test_a_line_that_pins_nothing_is_an_error_with_its_place(line: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        pins.read_pins(["# all", line], "a.txt")


def test_pins_are_read_by_their_normalised_name() -> None:
    assert pins.read_pins(["", "Jinja2==3.1.6  # templates", "ast_serialize==0.13"], "a.txt") == {
        "jinja2": "3.1.6",
        "ast-serialize": "0.13",
    }


# Locked files


@pytest.mark.parametrize(
    ("wheel", "fits"),
    [
        ("a-1-py3-none-any.whl", True),
        ("a-1-py2.py3-none-any.whl", True),
        ("a-1-cp311-cp311-manylinux_2_28_x86_64.whl", True),
        ("a-1-cp313-cp313-manylinux2014_aarch64.manylinux_2_17_aarch64.whl", True),
        ("a-1-py312-none-any.whl", True),
        ("a-1-py314-none-any.whl", False),
        ("a-1-cp312-cp312-macosx_11_0_arm64.whl", True),
        ("a-1-cp38-abi3-manylinux_2_17_x86_64.whl", True),
        ("a-1-py3-none-manylinux_2_28_x86_64.whl", True),
        ("a-1-cp310-cp310-manylinux_2_28_x86_64.whl", False),
        ("a-1-cp314-cp314-manylinux_2_28_x86_64.whl", False),
        ("a-1-cp314-abi3-manylinux_2_28_x86_64.whl", False),
        ("a-1-cp313-cp313t-manylinux_2_28_x86_64.whl", False),
        ("a-1-cp311-cp311-musllinux_1_2_x86_64.whl", False),
        ("a-1-cp311-cp311-win_amd64.whl", False),
        ("a-1-cp311-cp311-manylinux_2_28_s390x.whl", False),
        ("a-1-pp311-pypy311_pp73-manylinux_2_28_x86_64.whl", False),
    ],
)
def test_files_of_these_pythons_and_platforms_are_locked(wheel: str, fits: bool) -> None:
    assert lock.fits(wheel) is fits


LOCK = """
lock-version = "1.0"
[[packages]]
name = "both"
version = "1"
marker = "sys_platform == 'linux'"
sdist = {{ url = "https://x/both-1.tar.gz", hashes = {{ sha256 = "{0}" }} }}
wheels = [
    {{ url = "https://x/both-1-py3-none-any.whl", hashes = {{ sha256 = "{1}" }} }},
    {{ url = "https://x/both-1-cp311-cp311-win32.whl", hashes = {{ sha256 = "{2}" }} }},
]
[[packages]]
name = "Source_Only"
version = "2"
sdist = {{ name = "source_only-2.tar.gz", url = "https://x/y", hashes = {{ sha256 = "{2}" }} }}
[[packages]]
name = "the-project-itself"
directory = {{ path = "." }}
""".format("a" * 64, "b" * 64, "c" * 64)


def test_a_lock_keeps_wheels_that_fit_and_else_the_source() -> None:
    assert lock.read_lock(LOCK) == [
        lock.Locked("both", "1", "sys_platform == 'linux'", (f"sha256:{'b' * 64}",)),
        lock.Locked("source-only", "2", "", (f"sha256:{'c' * 64}",)),
    ]


@pytest.mark.parametrize(
    ("marker", "expected"),
    [
        ("", True),
        ("sys_platform == 'linux'", True),
        ("python_full_version < '3.12' and sys_platform == 'darwin'", True),
        ("sys_platform == 'win32'", False),
        ("python_full_version >= '3.14'", False),
    ],
)
def test_a_condition_counts_on_these_platforms(marker: str, expected: bool) -> None:
    assert lock.applies(marker) is expected


def test_a_package_without_a_file_that_fits_is_an_error() -> None:
    with pytest.raises(UserError, match=r"both==1: no file for CPython 3\.11 to 3\.13"):
        lock.read_lock(re.sub(r"(?m)^sdist.*$|.*py3-none.*", "", LOCK.partition('[[packages]]\nname = "S')[0]))


def found(**versions: str) -> dict[str, lock.Locked]:
    return {name: lock.Locked(name, version, "", (f"sha256:{'d' * 64}",)) for name, version in versions.items()}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that the locked files are written into."""
    for name in ("LOCKED", "BUILD", "CUDA"):
        monkeypatch.setattr(lock, name, tmp_path / getattr(lock, name).name)
    monkeypatch.setattr(lock, "ROOT", tmp_path)
    return tmp_path


def test_pins_others_and_the_builder_go_to_files_of_their_own(folder: Path) -> None:
    lock.write(found(a="1", cuda="2", setuptools="3"), {"a": "1", "setuptools": "3"})
    versions = {path.name: {name: one[0] for name, one in entries(path).items()} for path in folder.iterdir()}
    assert versions == {"locked.txt": {"a": "1"}, "cuda.txt": {"cuda": "2"}, "build.txt": {"setuptools": "3"}}


@pytest.mark.parametrize(
    ("pinned", "said"),
    [
        ({"a": "1", "b": "1"}, "no extra of pyproject.toml needs b; remove its line"),
        ({"a": "2"}, "a: constraints.txt pins 2, uv resolved 1"),
    ],
)
def test_a_pin_that_is_not_what_was_resolved_is_an_error(folder: Path, pinned: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        lock.write(found(a="1", setuptools="3"), pinned)
    assert list(folder.iterdir()) == []


def test_a_new_torch_needs_the_checksum_of_its_cpu_build() -> None:
    text = lock.CPU_BUILDS.read_text(encoding="utf-8")
    lock.check_cpu_builds(text, pins.pinned_versions()["torch"])
    for other in ("", text.replace("torch==", "torch==99."), text + "torch==99.0+cpu \\\n"):
        with pytest.raises(UserError, match=r"cpu_builds\.txt: has torch .*add the checksum of the new build"):
            lock.check_cpu_builds(other, pins.pinned_versions()["torch"])


def test_the_locked_files_are_those_of_the_constraints() -> None:
    locked = entries(pins.LOCKED) | entries(lock.BUILD)
    assert {name: version for name, (version, _) in locked.items()} == pins.pinned_versions(MODELS), "run `make lock`"
    assert not set(entries(lock.CUDA)) & set(locked)
    assert set(entries(lock.BUILD)) == {lock.BUILDS_WITH}


def test_what_is_installed_needs_nothing_that_is_not_locked() -> None:
    """With --no-deps pip does not look for the locked packages' dependencies."""
    locked = {*entries(pins.LOCKED), *entries(lock.BUILD), *entries(lock.CUDA), "softprompts", "pip"}
    models = {model.partition("==")[0] for model in MODELS}
    missing = [(name, one) for name in locked - models for one in needed(name) if one not in locked]
    assert missing == []


def needed(name: str) -> Iterator[str]:
    """Yield the requirements of an installed package on this platform; none if it is not installed."""
    try:
        requires = distribution(name).requires or ()
    except PackageNotFoundError:
        return
    extras = ["", "dev", "docs", "bench", "release"] if name == "softprompts" else [""]
    for requirement in map(Requirement, requires):
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            yield canonicalize_name(requirement.name)


def test_ci_installs_with_checksums() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r"^(\w+=\S+ )*make setup LOCKED=1\b", script, re.MULTILINE)
    assert re.search(r"^CHECKED = --require-hashes\b", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


# Vulnerabilities


REPORT = [
    {"name": "a", "version": "1", "vulns": []},
    {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["3"]}]},
]


def test_a_finding_without_an_answer_fails_with_the_version_that_has_none() -> None:
    with pytest.raises(UserError, match=r"1 findings without an answer .*: b 2: PYSEC-1, fixed in 3"):
        audit.judge(audit.findings(REPORT), {}, 2, "osv")


@pytest.mark.parametrize("number", ["PYSEC-1", "CVE-1"])
def test_an_answer_counts_by_any_of_the_ids(number: str) -> None:
    said = audit.judge(audit.findings(REPORT), {number: {"reason": "not called"}}, 2, "osv")
    assert said == "2 packages asked at osv: 1 known vulnerabilities, each answered"


def test_an_answer_to_nothing_fails() -> None:
    with pytest.raises(UserError, match="CVE-9 is found no longer"):
        audit.judge([], {"CVE-9": {}}, 2, "osv")


def test_a_service_that_does_not_know_the_packages_has_audited_nothing() -> None:
    report, reason = audit.answered_by([REPORT[0], {"name": "c", "skip_reason": "not found"}])
    assert report is None
    assert reason == "knows 1 of 2 packages, and not c"


def test_without_a_service_it_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(audit, "_ask", lambda service: (None, "no network"))
    assert main(["audit"]) == 2
    said = (
        "error: no package was audited: no service with advisories can be reached: pypi (no network), "
        "osv (no network)\n"
    )
    assert capsys.readouterr().err == said


def test_the_second_service_is_asked_if_the_first_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    replies = {"pypi": (None, "no network"), "osv": (REPORT[:1], "")}
    monkeypatch.setattr(audit, "_ask", replies.__getitem__)
    assert audit.run() == "1 packages asked at osv: 0 known vulnerabilities, each answered"


# Licences


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("MIT", False),
        ("BSD-3-Clause AND MIT", False),
        ("MPL-2.0", False),
        ("LGPL-2.1-or-later", False),
        ("GNU Lesser General Public License v3 (LGPLv3)", False),
        ("GPL-2.0-only OR MIT", False),
        ("GPL-2.0-only", True),
        ("AGPL-3.0", True),
        ("GNU General Public License v3 (GPLv3)", True),
        ("MIT AND GPL-3.0-only", True),
        ("LicenseRef-NVIDIA-Proprietary", True),
        ("", True),
        ("see LICENSE", True),
    ],
)
def test_a_licence_needs_an_answer_unless_a_known_one_is_enough(licence: str, expected: bool) -> None:
    assert licences.needs_answer(licence) is expected


def test_the_name_of_a_licence_is_the_best_that_the_metadata_have() -> None:
    classifiers = [
        "License :: OSI Approved :: MIT License",
        "License :: OSI Approved",
        "Programming Language :: Python",
    ]
    assert licences.licence_of("Apache-2.0", classifiers, "x") == "Apache-2.0"
    assert licences.licence_of(None, classifiers, "x") == "MIT License"
    assert licences.licence_of(None, (), "BSD 3-Clause") == "BSD 3-Clause"
    assert licences.licence_of(None, (), "Permission is hereby granted\nto anyone") == ""


def test_a_tool_may_have_an_answer_and_the_library_none() -> None:
    tool, needed = (Licence("a", "1", "GPL-3.0-only", by) for by in (DEVELOPMENT, LIBRARY))
    with pytest.raises(UserError, match=r"no answer about the licence of a \(GPL-3\.0-only\)"):
        licences.check([tool], {})
    licences.check([tool], {"a": {"reason": "it is run, not imported"}})
    with pytest.raises(UserError, match="the library may not need a, which is under GPL-3"):
        licences.check([needed], {"a": {"reason": "it is run, not imported"}})
    with pytest.raises(UserError, match="b is not among the dependencies"):
        licences.check([], {"b": {}})


def test_the_library_needs_what_its_requirements_need_and_no_tool() -> None:
    names = {"torch", "sympy", "datasets", "fsspec"}
    installed = {name: distribution(name) for name in {*names, "pytest"}}
    assert licences.closure(["softprompts"], installed) == names


def test_the_committed_list_is_that_of_the_constraints() -> None:
    rows = licences.read_csv()
    assert {row.package: row.version for row in rows} == pins.pinned_versions(MODELS), "run `make licences`"
    licences.check(rows, pins.answers("licences"))
    assert {"torch", "numpy"} <= {row.package for row in rows if row.needed_by == LIBRARY}
    assert {"pytest", "ruff"} <= {row.package for row in rows if row.needed_by == DEVELOPMENT}
    assert all(answer["reason"] for answer in pins.answers("licences").values())


# The check of a release


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a repository with a small package and one commit."""
    folder = tmp_path / "project"
    (folder / "small").mkdir(parents=True)
    (folder / "small" / "__init__.py").write_text("x = 1\n", encoding="utf-8")
    settings = '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
    settings += '[project]\nname = "small"\nversion = "1"\n'
    (folder / "pyproject.toml").write_text(settings, encoding="utf-8")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "all")
    return folder


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True)


def test_a_file_without_a_commit_is_refused(project: Path) -> None:
    check.check_clean(project)
    (project / "stray.py").touch()
    with pytest.raises(UserError, match=r"1 files are not committed, the first: stray\.py"):
        check.check_clean(project)


@pytest.mark.parametrize(
    ("changelog", "said"),
    [
        ("## [Unreleased]\n\n- a\n", "the newest release there is none, the package's version is 1.2"),
        ("## [1.1] - 2026\n\n- a\n", "the newest release there is 1.1"),
        ("## [1.2] - 2026-01-01\n\n## [1.1]\n\n- a\n", "the section of 1.2 has no notes"),
    ],
)
def test_a_release_has_notes(changelog: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        check.check_notes(changelog, "1.2")


def test_the_changelog_has_notes_of_this_version() -> None:
    check.check_notes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), __version__)


def test_a_command_that_fails_is_named_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ended with code 3: all is lost"):
        check._call([sys.executable, "-c", "print('all is lost'); raise SystemExit(3)"], tmp_path)


# Not `build`: the folder of that name, which make docs writes, would count as a package.
needs_build = pytest.mark.skipif(find_spec("pyproject_hooks") is None, reason="needs the extra `release`")


@needs_build
@pytest.mark.slow
def test_two_builds_of_a_commit_are_equal_and_have_no_stray_file(project: Path, tmp_path: Path) -> None:
    (project / "small" / "stray.py").touch()
    source, wheel = sorted(check.build_twice(project, tmp_path / "out"), key=lambda file: file.suffix == ".whl")
    assert source.name == "small-1.tar.gz"
    assert wheel.name == "small-1-py3-none-any.whl"
    assert not [name for name in check.members(source) if "stray" in name]


@needs_build
@pytest.mark.slow
def test_builds_that_differ_are_refused(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = check.build

    def changing(repository: Path, folder: Path) -> list[Path]:
        if folder.name == "second":
            (project / "small" / "__init__.py").write_text("x = 2\n", encoding="utf-8")
            git(project, "commit", "-q", "-a", "-m", "more")
        return build(repository, folder)

    monkeypatch.setattr(check, "build", changing)
    with pytest.raises(UserError, match="two builds of one commit differ"):
        check.build_twice(project, tmp_path / "out")


# The bill of materials, and secrets


@pytest.mark.skipif(find_spec("cyclonedx_py") is None, reason="needs the extra `release`")
@pytest.mark.slow
def test_the_bill_of_materials_has_every_package_and_is_always_the_same(tmp_path: Path) -> None:
    (line,) = re.findall(r"\$\(BIN\)/cyclonedx-py (.*)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    texts = []
    for name in ("first.json", "second.json"):
        arguments = line.replace("build/sbom.json", str(tmp_path / name)).replace("$(BIN)/python", sys.executable)
        subprocess.run([sys.executable, "-m", "cyclonedx_py", *arguments.split()], cwd=ROOT, check=True)
        texts.append((tmp_path / name).read_text(encoding="utf-8"))
    assert texts[0] == texts[1]
    bill = json.loads(texts[0])
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "softprompts"
    named = {canonicalize_name(one["name"]): one["version"] for one in bill["components"]}
    assert named["torch"].startswith(pins.pinned_versions()["torch"])
    assert {"transformers", "peft", "numpy"} <= set(named)


@pytest.mark.skipif(find_spec("detect_secrets") is None, reason="needs detect-secrets")
def test_a_key_in_a_new_file_is_found(tmp_path: Path) -> None:
    key = "AKIA" + "IOSFODNN7" + "EXAMPLF"  # in the shape of a cloud's key, split so that this file passes
    (tmp_path / "settings.py").write_text(f'key = "{key}"\n', encoding="utf-8")
    command = [sys.executable, "-m", "detect_secrets.pre_commit_hook", "--baseline", ".secrets.baseline"]
    ended = subprocess.run([*command, str(tmp_path / "settings.py")], cwd=ROOT, capture_output=True, check=False)
    assert ended.returncode == 1
    assert b"AWS Access Key" in ended.stdout
