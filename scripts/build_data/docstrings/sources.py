"""Read docstrings of installed packages from their source with `ast`: signature, summary, description.

Nothing is imported, so neither a package's import nor the platform can change the result.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

SIGNATURE = 160  # most characters; later arguments become "..."
DESCRIPTION = 600  # most characters, cut at the end of a sentence
PROSE = 120  # characters; a shorter description is followed by return values and parameters
# Sentences that only refer to other places, or lack a citation.
REFERENCE = re.compile(
    r"(?i)^(see|refer to|for (more|further|general)) |read more|refer to the|\b(by|from|in|of|to)\.$"
)
# Folders and files that are not part of the library itself: tests, copies of other projects, and wholly deprecated
# modules. scipy/_lib is mostly such copies.
SKIPPED = {
    "tests",
    "conftest.py",
    "externals",
    "_lib",
    "distutils",
    "odr",
    "pandas/util/version",
    "pandas/io/clipboard",
}
SECTION = re.compile(r"(?m)^(\S.*)\n[-=~]{3,}[ ]*$")  # a title with a line of dashes below it

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Documented:
    """One documented object. `summary` is the first paragraph of the docstring with its lines, `body` the rest."""

    id: str
    signature: str
    summary: str
    body: str
    deprecated: bool


def read_package(folder: Path) -> Iterator[Documented]:
    """Yield the documented objects in the .py files of the package `folder`, in the order of their paths."""
    for path in sorted(folder.rglob("*.py")):
        inner = path.relative_to(folder.parent)
        places = {*inner.parts, *(parent.as_posix() for parent in inner.parents)}
        if not places & SKIPPED:
            # The defining module may be private: numpy.linalg._linalg has numpy.linalg.norm.
            module = [part for part in inner.with_suffix("").parts if not part.startswith("_")]
            yield from _read(ast.parse(path.read_bytes()).body, module, ())


def _read(body: Sequence[ast.stmt], module: list[str], classes: tuple[str, ...]) -> Iterator[Documented]:
    for node in body:
        if isinstance(node, Definition):
            if doc := ast.get_docstring(node):
                signature = shorten(".".join([*classes, node.name]) + arguments(node, bool(classes)))
                deprecated = any("deprecat" in ast.unparse(d).lower() for d in node.decorator_list)
                yield document(".".join([*module, *classes, node.name]), signature, doc, deprecated)
            if isinstance(node, ast.ClassDef):
                yield from _read(node.body, module, (*classes, node.name))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield from _read_added(node.value, module)


def _read_added(call: ast.Call, module: list[str]) -> Iterator[Documented]:
    """Yield the object that a call of `add_newdoc` documents: a function in C, whose first paragraph is the signature.

    numpy has `add_newdoc(module, name, doc)`, or `(name, doc)` of a method in place of `doc`; scipy lacks the module.
    """
    if not (isinstance(call.func, ast.Name) and call.func.id == "add_newdoc"):
        return
    try:
        *place, name, doc = (ast.literal_eval(argument) for argument in call.args)
    except ValueError:  # composed at run time
        return
    classes = []
    if isinstance(doc, tuple):
        classes, (name, doc) = [name], doc
    if place:
        module = [part for part in place[0].split(".") if not part.startswith("_")]
    head, _, rest = inspect.cleandoc(doc).replace("\n--\n", "\n").partition("\n\n")
    head = " ".join(head.split())
    if re.fullmatch(r"[\w.]+\(.*\)", head):
        signature = shorten(".".join([*classes, name]) + head[head.index("(") :])
        yield document(".".join([*module, *classes, name]), signature, rest, False)


def arguments(node: Definition, method: bool) -> str:
    """Return the arguments of a function, or of a class's `__init__`, without annotations; "" for a property."""
    if isinstance(node, ast.ClassDef):
        inits = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        return arguments(inits[-1], method=True) if inits else ""
    decorators = {ast.unparse(d).rpartition(".")[2] for d in node.decorator_list}
    if decorators & {"property", "cached_property", "cache_readonly"}:
        return ""
    for argument in ast.walk(node.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    text = ast.unparse(node.args)
    if method and "staticmethod" not in decorators:
        text = re.sub(r"^\w+(, /)?(, )?", "", text)
    return f"({text})"


def shorten(signature: str) -> str:
    """Return the signature in one line, with as many arguments as there is room for."""
    signature = " ".join(signature.split())
    if len(signature) <= SIGNATURE:
        return signature
    return signature[: SIGNATURE - 6].rpartition(", ")[0] + ", ...)"


def document(key: str, signature: str, doc: str, deprecated: bool) -> Documented:
    """Return the parts of a docstring after `inspect.cleandoc`."""
    summary, _, body = doc.strip().partition("\n\n")
    deprecated = deprecated or ".. deprecated" in SECTION.split(body)[0] or summary.lower().startswith("deprecated")
    summary = "\n".join(inline(line) for line in summary.split("\n"))
    return Documented(key, signature, summary, body, deprecated)


def describe(body: str) -> str:
    """Return the description as one line of prose; if it is short, add the return values and parameters."""
    prose, *sections = SECTION.split(body)  # prose, title, text, title, text, ...
    sentences = list(list_sentences(prose))
    if sum(map(len, sentences)) < PROSE:
        sentences += list_fields(dict(zip(sections[::2], sections[1::2], strict=True)))
    return join(sentences)


def join(sentences: Sequence[str]) -> str:
    """Return as many of the first sentences as fit into `DESCRIPTION` characters, in one line."""
    lengths = accumulate(len(sentence) + 1 for sentence in sentences)
    return " ".join(s for s, length in zip(sentences, lengths, strict=True) if s and length <= DESCRIPTION)


def split_sentences(text: str) -> list[str]:
    """Return the whole sentences of reST prose as plain text, without sentences that a formula or example splits."""
    parts = re.split(
        r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!vs\.)(?<!cf\.)\s+(?=[A-Z`\"(])", inline(" ".join(text.split()))
    )
    return [part for part in parts if re.match(r"[A-Z\d`\"(*].* .*\.$", part) and "\\" not in part]


def list_sentences(prose: str) -> Iterator[str]:
    """Yield the sentences of the extended description.

    Directives, lists, tables, formulas, code and all other indented text are left out, and so are sentences that
    announce them with a colon.
    """
    for block in re.split(r"\n\s*\n", prose.strip("\n")):
        listed = any(re.match(r"\s*([-*+•]|\d+[.)]|[=+|][-= ]{2,})\s", line + " ") for line in block.split("\n"))
        if not listed and not block.startswith((" ", "..", ">>>", "|")):
            yield from (s for s in split_sentences(block) if not REFERENCE.search(s))


def list_fields(sections: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each returned value and parameter: its name and the first sentence about it."""
    for title, label in (("Returns", "Returns"), ("Yields", "Yields"), ("Parameters", "Parameter")):
        for entry in re.split(r"\n(?=\S)", sections.get(title, "").strip("\n")):
            head, _, text = entry.partition("\n")
            told = split_sentences(re.split(r"\n\s*(?:\n|\.\. |[-*] )", text)[0])[:1]
            if told and not re.match("Ignored|Not used", told[0]):
                # A result may have only a type, which can be a whole phrase.
                name = inline(head.partition(" :")[0]).replace("`", "").strip()
                yield f"{label} `{name}`: {told[0]}" if re.fullmatch(r"[\w*., ]{1,40}", name) else f"{label}: {told[0]}"


def inline(text: str) -> str:
    """Return `text` without reST markup (roles, links, citations, bold); names are in single backticks."""
    text = re.sub(r"``(.+?)``", r"`\1`", text)
    text = re.sub(r":math:`([^`]*)`", r"\1", text)
    text = re.sub(r"(?::[\w:+-]+:)?`([^`<]+?)\s*<[^`>]*>`(__?)?", r"\1", text)  # a text and its target
    text = re.sub(r":[\w:+-]+:`", "`", text)
    text = re.sub(r"`~[\w.]*?(\w+)`", r"`\1`", text)
    text = re.sub(r"`([^`]*)`__?\b", r"\1", text)
    text = re.sub(r"\s*\(?\[[^\]\s]+\]_\)?", "", text)
    text = re.sub(r"\\([*_`|])", r"\1", text)
    return re.sub(r"\*\*(\S.*?)\*\*", r"\1", text).strip()
