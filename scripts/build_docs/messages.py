"""Collect every message that ends a run from the source, where each `UserError` is raised."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator

from scripts.build_docs.pages import ROOT
from softprompts.errors import UserError

PACKAGE = ROOT / "src" / "softprompts"


@functools.cache
def messages() -> dict[str, list[str]]:
    """Return the messages of each module that has some, by its path in the package. `…` stands for a value."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if texts := list(dict.fromkeys(_texts(tree))):
            found[path.relative_to(PACKAGE).as_posix()] = texts
    return found


def _texts(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "UserError":
            text = " ".join("".join(_text(part) for part in node.args).split())
            if text.strip("… :"):
                yield text


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Key":
        return _text(node.args[0])
    if isinstance(node, ast.IfExp):
        return f"{_text(node.body)} / {_text(node.orelse)}"
    return "…"


def of_modules(*names: str) -> str:
    """Return the messages of modules, or of all modules of a folder, as a folded list.

    Raises:
        UserError: a module or folder has no messages.
    """
    lines = []
    for name in names:
        found = [text for module in messages() if within(module, name) for text in messages()[module]]
        if not found:
            raise UserError(f"no message in {name}")
        lines += [f"    - `{text.replace('`', chr(39))}`" for text in found]
    return "\n".join([f'??? note "All {len(lines)} messages of this kind"', "", *lines])


def within(module: str, name: str) -> bool:
    """Return whether a module is the named one, or is in the named folder."""
    return module == name or module.startswith(f"{name}/")
