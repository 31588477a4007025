"""No file of this project reads a pickle, or lets a model's folder run its own code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from helpers import ROOT

import pytest

FOLDERS = ("src", "recipes", "benchmarks", "scripts", "docker", "configs", "notebooks")
MODULES = {"pickle", "cPickle", "_pickle", "pickletools", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
# Functions that unpickle, by their last two names, with any name of the import.
UNPICKLE = {
    "torch.load",
    "jit.load",
    "numpy.load",
    "np.load",
    "pandas.read_pickle",
    "pd.read_pickle",
    "yaml.unsafe_load",
}
UNPICKLE |= {"yaml.full_load", "torch.package", "serialization.load", "hub.load"}
ALLOWS = {"allow_pickle": True, "trust_remote_code": True, "weights_only": False, "use_safetensors": False}


def sources() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def found_in(text: str) -> Iterator[str]:
    """Yield the calls in a program that read pickles, or allow other code to read them."""
    tree = ast.parse(text)
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    safe = {c.name for c in classes if any(ast.unparse(base).endswith("SafeLoader") for base in c.bases)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "yaml.load":
            given = [*node.args[1:], *(k.value for k in node.keywords if k.arg == "Loader")]
            yield from (
                f"yaml.load by {loader}"
                for loader in map(ast.unparse, given)
                if not (loader in safe or loader.endswith("SafeLoader"))
            )
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield from (module for _ in [0] if module.partition(".")[0] in MODULES)
            last = module.rpartition(".")[2]
            names = [f"{last}.{alias.name}" for alias in node.names if not module.startswith("safetensors")]
            yield from (name for name in names if name in UNPICKLE)
        elif isinstance(node, ast.Attribute):
            name = ".".join(ast.unparse(node).split(".")[-2:])
            yield from (name for _ in [0] if name in UNPICKLE)
        elif isinstance(node, ast.keyword) and node.arg in ALLOWS:
            given = node.value
            if not isinstance(given, ast.Constant) or given.value is ALLOWS[node.arg]:
                yield f"{node.arg}={ast.unparse(given)}"


def test_no_program_here_reads_a_pickle() -> None:
    found = {str(path.relative_to(ROOT)): [*found_in(path.read_text(encoding="utf-8"))] for path in sources()}
    assert len(found) > 200
    assert {path: names for path, names in found.items() if names} == {}


def test_no_pickle_is_in_the_tree() -> None:
    kinds = {".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib", ".npy", ".npz"}
    files = [path for folder in (*FOLDERS, "data", "results", "docs", "tests") for path in (ROOT / folder).rglob("*")]
    assert [path for path in files if path.suffix in kinds] == []


@pytest.mark.parametrize(
    "program",
    [
        "import pickle",
        "from joblib import load",
        "import torch\ntorch.load('x', weights_only=True)",
        "from torch import load",
        "import numpy as np\nnp.load('x')",
        "f(allow_pickle=True)",
        "f(trust_remote_code=asked)",
        "f(weights_only=False)",
        "import yaml\nyaml.load(text, yaml.Loader)",
    ],
)
def test_each_way_is_found(program: str) -> None:
    assert [*found_in(program)]


def test_what_reads_none_is_not_found() -> None:
    assert not [
        *found_in("import json\njson.load(x)\nf(trust_remote_code=False, weights_only=True)\nyaml.safe_load(x)")
    ]
