"""glibc keeps freed memory, unless the user has chosen otherwise. The setting is permanent: one process per case."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[2] / "src"
# Page faults of filling a block of 64 MiB again and again; a block that is kept costs them once.
FAULTS = """
import ctypes, resource
from softprompts.system.allocator import keep_freed_memory
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: a huge page is a single fault
print(keep_freed_memory())
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(2):
    bytearray(2**26)
before = faults()
for _ in range(4):
    bytearray(2**26)
print(faults() - before)
"""


def run(**variables: str) -> tuple[bool, int]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_", "LD_PRELOAD"))}
    environment = kept | {"PYTHONPATH": str(SOURCES)} | variables
    done = subprocess.run([sys.executable, "-c", FAULTS], env=environment, capture_output=True, text=True, check=True)
    said, faults = done.stdout.split()
    return said == "True", int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_a_block_that_is_freed_is_used_again_without_page_faults() -> None:
    kept, faults = run()
    assert kept
    assert faults < 100, "four blocks of 64 MiB"
    chose, more = run(MALLOC_ARENA_MAX="8")
    assert not chose
    assert more > 1000, "this is what it saves"
