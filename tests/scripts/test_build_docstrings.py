"""The docstrings build: reading a made-up package, choosing and splitting rows, and the committed files."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections import Counter
from pathlib import Path

from softprompts.errors import UserError

import pytest

ROOT = Path(__file__).parents[2]
build_data = importlib.import_module("scripts.build_data.__main__")
docstrings = importlib.import_module("scripts.build_data.docstrings.build")
sources = importlib.import_module("scripts.build_data.docstrings.sources")
text = importlib.import_module("scripts.build_data.text")

COMMITTED = ROOT / "data" / "docstrings"
MODULE = '''
def norm(x: list[float], /, ord: int | None = None, *, axis=0) -> float:
    """
    Return the norm.

    It has :func:`~a.b.sum`, ``x`` and `a link <http://x>`_ [1]_.
    Second line, cut:

    .. math:: x^2

    - an item of a list
    """

@deprecated("no more")
def old():
    """Return nothing."""

class Box:
    """Hold values."""

    def __init__(self, size, **kwargs):
        pass

    def open(self, key: str):
        """Open the box.

        Returns
        -------
        key : str
            The key. It is old.
        """

    @property
    def size(self):
        """Return the size.

        .. deprecated:: 1.0
        """

    @staticmethod
    def make(kind):
        """Make a box."""
'''
ADDED = '''
add_newdoc("pkg._core.umath", "add",
    """
    add(x1, x2,
        out=None)
    --

    Add arguments.

    Element by element it goes.
    """)
add_newdoc("pkg._core", "iter", ("copy", """copy() \\n\\nMake a copy."""))
add_newdoc("plain", """No signature here.""")
other("a", "b(c)\\n\\nNot a call of add_newdoc.")
'''


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "pkg"
    for name, content in {
        "_sub/_impl.py": MODULE,
        "added.py": ADDED,
        "tests/test_x.py": MODULE,
        "externals/a.py": MODULE,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, "utf-8")
    return folder


def row(key: str, summary: str, description: str, library: str = "numpy"):
    return docstrings.Row(key, library, key.rpartition(".")[2] + "(x)", description, summary)


def noise(key: str) -> str:
    """A text of words made of a hash: no two resemble each other by accident."""
    return " ".join(text.digest(f"{key}{i}")[:9] for i in range(6))


def read_splits(folder: Path):
    return {
        split: [
            docstrings.Row(**json.loads(line)) for line in (folder / f"{split}.jsonl").read_text("utf-8").splitlines()
        ]
        for split in docstrings.SPLITS
    }


def test_read_package(package: Path) -> None:
    items = {item.id: item for item in sources.read_package(package)}
    assert {key: item.signature for key, item in items.items()} == {
        "pkg.norm": "norm(x, /, ord=None, *, axis=0)",
        "pkg.old": "old()",
        "pkg.Box": "Box(size, **kwargs)",
        "pkg.Box.open": "Box.open(key)",
        "pkg.Box.size": "Box.size",
        "pkg.Box.make": "Box.make(kind)",
        "pkg.umath.add": "add(x1, x2, out=None)",
        "pkg.iter.copy": "iter.copy()",
    }
    assert [key for key, item in items.items() if item.deprecated] == ["pkg.old", "pkg.Box.size"]
    assert items["pkg.norm"].summary == "Return the norm."
    assert sources.describe(items["pkg.norm"].body) == "It has `sum`, `x` and a link."
    assert sources.describe(items["pkg.Box.open"].body) == "Returns `key`: The key."
    assert items["pkg.umath.add"].summary == "Add arguments."
    assert items["pkg.iter.copy"].summary == "Make a copy."


def test_describe_names_what_is_returned_and_taken_behind_short_prose() -> None:
    body = (
        "Short prose here.\n\nParameters\n----------\nx, y : array\n    Input data.\n\n    More on it.\n"
        "*args\n    Rest of them, see\n    below. Second.\nz : int\n    Ignored.\n\n"
        "Returns\n-------\n{a, b} of some kind\n    What comes out.\n\nNotes\n-----\nNot told.\n"
    )
    fields = "Returns: What comes out. Parameter `x, y`: Input data. Parameter `*args`: Rest of them, see below."
    assert sources.describe(body) == f"Short prose here. {fields}"
    long = "This prose is long enough to stand alone. " * 4
    assert sources.describe(long + body[17:]) == long.strip()


def test_describe_cuts_at_the_end_of_a_sentence() -> None:
    told = sources.describe("\n".join(f"Sentence number {n} of many." for n in range(100)))
    assert sources.DESCRIPTION - 30 < len(told) <= sources.DESCRIPTION
    assert told.endswith(" of many.")
    assert sources.describe("No end " * 100 + "at all.") == ""


@pytest.mark.parametrize(
    ("markup", "plain"),
    [
        (r"the \*args of **both** :meth:`DataFrame.sum`", "the *args of both `DataFrame.sum`"),
        (":ref:`User Guide <svm>` of :math:`n` x_i", "User Guide of n x_i"),
        ("``a`` and ``b`` or `c`_", "`a` and `b` or c"),
        ("as in [RW06]_, or ([1]_).", "as in, or."),
        ("a[i] is `b_`", "a[i] is `b_`"),
    ],
)
def test_inline(markup: str, plain: str) -> None:
    assert sources.inline(markup) == plain


def test_long_signatures_lose_whole_arguments() -> None:
    short = sources.shorten(f"f({', '.join(f'argument_{n}=None' for n in range(30))})")
    assert len(short) <= sources.SIGNATURE
    assert short.endswith("=None, ...)")


@pytest.mark.parametrize(
    ("key", "summary", "body", "reason"),
    [
        ("a.sort", "Sort the values of an array.", "{}", None),
        ("a.sort", "Sorts the values of an array.", "{}", "imperative"),
        ("a.__len__", "Sort the values of an array.", "{}", "special method"),
        ("a._sort", "Sort the values of an array.", "{}", "private"),
        ("a._sort", "Sort the values of an array.", "{}\n\nNotes\n-----\nNone.", None),
        ("a.sort", "Sort values.", "{}", "short summary"),
        ("a.sort", "Sort the values of an array.", "All the values of an array.", "little text"),
        ("a.sort", "Sort the %(kind)s values of an array.", "{}", "template"),
        ("a.sort", "Sort the values of an array.", "{} Sort the values of an array.", "told verbatim"),
        ("a.shuffle", "Draw random permutations.", "{}", "not told"),
    ],
)
def test_read_rows_says_why_a_docstring_is_left_out(key: str, summary: str, body: str, reason: str | None) -> None:
    body = body.format("The values come back in ascending order, and the array itself is not touched at all.")
    stats = {"numpy": Counter()}
    rows = docstrings.read_rows("numpy", [sources.Documented(key, "f(x)", summary, body, False)], stats)
    assert len(rows) == (reason is None)
    assert set(stats["numpy"]) - {"docstrings", "in style"} == ({reason} if reason else set())


def test_drop_repeats_keeps_the_first() -> None:
    rows = [
        row("a.f", "Return one thing.", noise("1")),
        row("a.f", "Return another.", noise("2")),
        row("b.g", "Return `one` thing.", noise("3")),
        row("b.h", "Return a third.", noise("4")),
        row("c.h", "Return the third.", noise("4")),
        row("c.i", "Return a fourth.", noise("5")),
    ]
    stats = {"numpy": Counter()}
    assert [r.id for r in docstrings.drop_repeats(rows, stats)] == ["a.f", "b.h", "c.i"]
    assert stats["numpy"] == dict.fromkeys(docstrings.SET_REASONS, 1)


def test_groups_link_names_summaries_and_descriptions_across_rows() -> None:
    rows = [
        row("a.f", noise("s1"), noise("d1")),
        row("a.g", noise("s2"), noise("d2")),
        row("a.C.F_", noise("s3"), noise("d3")),  # the name of a.f
        row("a.h", noise("s3") + " too", noise("d4")),  # the summary of a.C.F_
        row("a.i", noise("s5"), noise("d4") + " too"),  # the description of a.h
    ]
    assert sorted(sorted(r.id for r in group) for group in docstrings.group(rows)) == [
        ["a.C.F_", "a.f", "a.h", "a.i"],
        ["a.g"],
    ]


def test_assign_splits_fills_the_held_out_splits_with_small_whole_groups() -> None:
    groups = [[row(f"a.f{n}x{i}", "", "") for i in range(1 + n % 12)] for n in range(60)]
    splits = docstrings.assign_splits(groups, {"test": 40, "validation": 15})
    assert [len(splits[name]) for name in ("test", "validation")] == [40, 15]
    where = [Counter(r.id.partition("x")[0] for r in rows) for rows in splits.values()]
    assert sum(map(len, where)) == 60
    assert max([*where[1].values(), *where[2].values()]) <= docstrings.LARGEST
    # The order of the input does not matter.
    assert docstrings.assign_splits([group[::-1] for group in groups[::-1]], {"test": 40, "validation": 15}) == splits


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (row("b.f", noise("s2"), noise("d2")), "both have the name f"),
        (row("b.g", noise("s1") + " x", noise("d2")), "near-duplicate summary"),
        (row("b.g", noise("s2"), noise("d1") + " x"), "near-duplicate description"),
        (row("b.g", noise("s2"), noise("d2")), None),
    ],
)
@pytest.mark.parametrize(("here", "there"), [("train", "test"), ("train", "validation"), ("validation", "test")])
def test_leaks_are_seen_between_all_splits(other, said: str | None, here: str, there: str) -> None:
    splits = {"train": [row("c.h", noise("s3"), noise("d3"))], "validation": [], "test": []}
    splits[here] = [*splits[here], row("a.f", noise("s1"), noise("d1"))]
    splits[there] = [*splits[there], other]
    found = docstrings.leaks(splits)
    assert len(found) == (said is not None)
    assert not said or said in found[0]


def test_another_version_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setitem(docstrings.PINNED, "scipy", "0.1")
    assert build_data.main(["docstrings", "--out", str(tmp_path / "o")]) == 2
    error = capsys.readouterr().err
    assert "docstrings is built from scipy==0.1 (found 1." in error
    assert "`pip install numpy==2.4.6 scipy==0.1 pandas==" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "o").exists()
    with pytest.raises(UserError, match=r"no-such-package==1 \(found nothing\)"):
        text.check_versions("docstrings", {"no-such-package": "1"})


def test_committed_files_are_sound() -> None:
    for line in (COMMITTED / "SHA256SUMS").read_text().splitlines():
        expected, name = line.split("  ")
        assert hashlib.sha256((COMMITTED / name).read_bytes()).hexdigest() == expected
    splits = read_splits(COMMITTED)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 1844, "validation": 180, "test": 450}
    assert all({r.library for r in rows} == set(docstrings.PINNED) for rows in splits.values())
    assert docstrings.leaks(splits) == []
    rows = [r for name in docstrings.SPLITS for r in splits[name]]
    assert [r.summary for r in rows if docstrings.style.broken_rule(r.summary)] == []
    assert len({r.id for r in rows}) == len({text.normalise(r.summary) for r in rows}) == len(rows)
    assert all(docstrings.SHORTEST <= len(r.description) <= sources.DESCRIPTION for r in rows)
    assert all(len(r.signature) <= sources.SIGNATURE and "\n" not in r.signature + r.description for r in rows)
    assert (COMMITTED / "LICENSE").read_text("utf-8").count("Redistribution") >= 5


@pytest.mark.slow
def test_committed_files_are_what_the_packages_give(tmp_path: Path) -> None:
    docstrings.build(tmp_path)
    assert sorted(p.name for p in (tmp_path / "docstrings").iterdir()) == sorted(p.name for p in COMMITTED.iterdir())
    for path in COMMITTED.iterdir():
        assert (tmp_path / "docstrings" / path.name).read_bytes() == path.read_bytes(), path.name
