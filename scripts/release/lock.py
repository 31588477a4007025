"""The locked files in `requirements/`: each pinned version with the SHA-256 of every file that pip may install.

uv resolves `pyproject.toml` with all extras at the versions of `constraints.txt`, for all platforms. Of the files found
these are kept: wheels for CPython 3.11 to 3.13 on Linux (x86_64, aarch64) and macOS, and the source distribution of a
package without such a wheel.

- `locked.txt`: the packages of `constraints.txt`, and the included models.
- `build.txt`: the packages that build source distributions. pip installs them first.
- `cuda.txt`: further packages for other builds of PyTorch, such as the CUDA libraries.
- `cpu_builds.txt`, kept by hand: builds of PyTorch without CUDA, which the package index does not have.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.release.pins import CONSTRAINTS, LOCKED, REQUIREMENTS, ROOT, pinned_versions
from softprompts.errors import UserError
from softprompts.system.files import write_atomically

from packaging.markers import Marker
from packaging.tags import Tag
from packaging.utils import canonicalize_name, parse_wheel_filename

CPU_BUILDS = REQUIREMENTS / "cpu_builds.txt"
BUILD, CUDA = REQUIREMENTS / "build.txt", REQUIREMENTS / "cuda.txt"
BUILDS_WITH = "setuptools"
PYTHONS = (11, 12, 13)
OLDEST = "3.11.5"  # the theme of the documentation needs it
SYSTEMS = ("linux", "darwin")
PLATFORM = re.compile(r"any|manylinux\w*_(x86_64|aarch64)|macosx_\w+")
HEAD = "# Written by `make lock` from constraints.txt and pyproject.toml."


@dataclass(frozen=True)
class Locked:
    """One package: its version, the condition under which it is needed, and the checksums of its files."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]

    def lines(self) -> str:
        """Return the package as pip reads it."""
        condition = f" ; {self.marker}" if self.marker else ""
        hashes = "".join(f" \\\n    --hash={one}" for one in self.hashes)
        return f"{self.name}=={self.version}{condition}{hashes}\n"


def run(models: Sequence[str]) -> str:
    """Write the locked files; return their names in a sentence.

    Args:
        models: packages in addition to constraints.txt, as NAME==VERSION; their own dependencies are not locked.

    Raises:
        UserError: uv fails, or a pinned package has no file that fits.
    """
    found = {one.name: one for one in _resolve(["pyproject.toml", "--all-extras", "-c", CONSTRAINTS.name])}
    found |= {one.name: one for one in _resolve(["-", "--no-deps"], "\n".join(models))}
    pins = pinned_versions(models)
    check_cpu_builds(CPU_BUILDS.read_text(encoding="utf-8"), pins["torch"])
    return write(found, pins)


def check_cpu_builds(text: str, version: str) -> None:
    """Raise a UserError unless the text of cpu_builds.txt names builds of this version of PyTorch, and of no other."""
    named = re.findall(r"^torch==(\S+)\+cpu ", text, flags=re.MULTILINE)
    if set(named) != {version}:
        raise UserError(
            f"{CPU_BUILDS.name}: has torch {', '.join(named) or 'in no version'}, constraints.txt {version}; add the "
            "checksum of the new build"
        )


def write(found: dict[str, Locked], pins: dict[str, str]) -> str:
    """Write the locked packages into their files; return what was written.

    Args:
        found: the packages that uv resolved.
        pins: the versions of constraints.txt and of the models.

    Raises:
        UserError: no package needs a pin, or uv resolved another version.
    """
    for name, version in pins.items():
        if name not in found:
            raise UserError(f"{CONSTRAINTS.name}: no extra of pyproject.toml needs {name}; remove its line")
        if found[name].version != version:
            raise UserError(f"{name}: {CONSTRAINTS.name} pins {version}, uv resolved {found[name].version}")
    parts = {
        BUILD: [BUILDS_WITH],
        LOCKED: [name for name in pins if name != BUILDS_WITH],
        CUDA: [name for name in sorted(found) if name not in pins],
    }
    for path, names in parts.items():
        write_atomically(path, "\n".join([HEAD, *(found[name].lines() for name in names)]))
    return "\n".join(f"written: {path.relative_to(ROOT)}, {len(names)} packages" for path, names in parts.items())


def _resolve(arguments: Sequence[str], text: str = "") -> list[Locked]:
    with tempfile.TemporaryDirectory() as folder:
        lock = Path(folder) / "pylock.toml"
        command = [sys.executable, "-m", "uv", "pip", "compile", *arguments, "--universal", "--no-emit-package", "pip"]
        command += ["--python-version", OLDEST, "--format", "pylock.toml", "--quiet", "-o", str(lock)]
        done = subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"uv could not resolve {arguments[0]}: {' '.join(done.stderr.split())}")
        return read_lock(lock.read_text(encoding="utf-8"))


def read_lock(text: str) -> list[Locked]:
    """Return the packages of a pylock.toml, each with the checksums of the files that fit.

    Raises:
        UserError: a package without such a file.
    """
    found = [one for one in tomllib.loads(text)["packages"] if "version" in one]
    return [_package(one) for one in found if applies(one.get("marker", ""))]


def applies(marker: str) -> bool:
    """Return whether a condition holds on one of the platforms with one of the Pythons."""
    places = ({"sys_platform": name, "python_full_version": f"3.{minor}.9"} for name in SYSTEMS for minor in PYTHONS)
    return not marker or any(Marker(marker).evaluate({"platform_machine": "x86_64", **place}) for place in places)


def _package(one: dict[str, Any]) -> Locked:
    files = [file for file in one.get("wheels", ()) if fits(_name(file))]
    if not files and "sdist" in one:
        files = [one["sdist"]]
    if not files:
        raise UserError(f"{one['name']}=={one['version']}: no file for CPython 3.{PYTHONS[0]} to 3.{PYTHONS[-1]}")
    hashes = sorted(f"sha256:{file['hashes']['sha256']}" for file in files)
    return Locked(canonicalize_name(one["name"]), one["version"], one.get("marker", ""), tuple(hashes))


def _name(file: dict[str, Any]) -> str:
    return str(file.get("name") or file["url"].rpartition("/")[2])


def fits(wheel: str) -> bool:
    """Return whether one of the Pythons and platforms can install a wheel of this name."""
    return any(_fits(tag) for tag in parse_wheel_filename(wheel)[3])


def _fits(tag: Tag) -> bool:
    found = re.fullmatch(r"(cp|py)3(\d*)", tag.interpreter)
    if not found or not PLATFORM.fullmatch(tag.platform):
        return False
    minor = int(found[2] or 0)
    # Pure Python, and a wheel for the stable interface of an older CPython, work with all newer ones.
    if found[1] == "py" or tag.abi == "abi3":
        return minor <= PYTHONS[-1]
    return minor in PYTHONS and not tag.abi.endswith("t")
