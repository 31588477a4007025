"""The compliance build: reading entries, passages, families and splits, and the committed files."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections import Counter
from pathlib import Path

from softprompts.errors import UserError
from softprompts.metrics.modules.policy_cost import STRICTNESS

import pytest

ROOT = Path(__file__).parents[2]
build_data = importlib.import_module("scripts.build_data.__main__")
compliance = importlib.import_module("scripts.build_data.compliance.build")
text = importlib.import_module("scripts.build_data.text")

COMMITTED = ROOT / "data" / "compliance"
LICENCE = "---\nkey: {0}\ncategory: {1}\n{2}---\n\n{3}\n"
RULE = "---\nlicense_expression: {0}\nis_license_{1}: yes\n{2}---\n{3}\n"


def noise(key: str, words: int = 12) -> str:
    """A text of words made of a hash: no two resemble each other by accident."""
    return " ".join(text.digest(f"{key}{i}")[:9] for i in range(words)) + "."


def row(key: str, licence: str, body: str, category: str = "permissive"):
    return compliance.Row(key, licence, "notice", body, "no", "", category)


def entries(files: dict[str, str]):
    return {name: compliance.read_entry(content) for name, content in files.items()}


def test_rows_are_notices_and_terms_of_one_licence_with_the_passage_that_names_it() -> None:
    long = " ".join(noise(f"sentence {n}", 8) for n in range(20))
    found = entries(
        {
            "fair.LICENSE": LICENCE.format("fair", "Permissive", "", long),
            "gone.LICENSE": LICENCE.format("gone", "Permissive", "is_deprecated: yes\n", noise("gone")),
            "cla.LICENSE": LICENCE.format("cla", "CLA", "", noise("cla")),
            "fair_1.RULE": RULE.format("fair", "reference", "relevance: 100\n", "Fair License 2.0"),
            "fair_2.RULE": RULE.format("fair", "reference", "relevance: 80\n", "Fair License 2.0 of some town"),
            "fair_3.RULE": RULE.format(
                "fair", "notice", "", f"# {noise('a')}\n# See the {{{{FAIR license 2.0}}}}, please"
            ),
            "fair_4.RULE": RULE.format("fair", "notice", "relevance: 50\n", noise("b")),
            "both.RULE": RULE.format("fair AND cla", "notice", "", noise("c")),
            "short.RULE": RULE.format("fair", "notice", "", "Fair terms apply"),
            "gone_1.RULE": RULE.format("gone", "notice", "", noise("d")),
        }
    )
    stats: Counter[str] = Counter()
    rows = {r.id: r for r in compliance.read_rows(found, stats)}
    assert set(rows) == {"terms-fair", "notice-fair_3"}
    notice = rows["notice-fair_3"]
    assert (notice.licence, notice.category, notice.marked, notice.passage) == (
        "fair",
        "permissive",
        "yes",
        "FAIR license 2.0",
    )
    assert notice.text == f"{noise('a')} See the FAIR license 2.0, please"
    cut = rows["terms-fair"].text
    assert compliance.LONGEST - 120 < len(cut) <= compliance.LONGEST
    assert long.startswith(cut)
    assert cut.endswith(".")
    assert stats["several licences"] == stats["uncertain"] == 1
    assert stats["other category"] == 3  # of no category that counts, or of a licence that is not in use
    assert stats["short"] == 1
    assert stats["neither notice nor terms"] == 2


def test_texts_of_several_categories_and_repeats_are_dropped() -> None:
    rows = [
        row("1", "a", noise("one")),
        row("2", "b", noise("one") + "!", "copyleft"),  # the same letters
        row("3", "a", noise("two")),
        row("4", "c", noise("two").upper()),
        row("5", "c", noise("two") + " more"),
        row("6", "c", noise("three")),
    ]
    stats: Counter[str] = Counter()
    assert [r.id for r in compliance.drop_repeats(rows, stats)] == ["3", "6"]
    assert stats == {"several categories": 2, "same text": 1, "near duplicates": 1}


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("gpl-2.0", "gpl-3.0-plus", True),
        ("agpl-3.0", "lgpl-2.1-plus", True),
        ("bsd-new", "bsd-simplified", False),
        ("cc-by-4.0", "cc-by-3.0-de", True),
        ("cc-by-4.0", "cc-zero", False),
        ("ms-net-library-2018", "ms-net-framework", True),
    ],
)
def test_families_are_known_by_their_names(one: str, two: str, same: bool) -> None:
    assert (compliance.family(one) == compliance.family(two)) == same


def test_groups_link_families_and_near_duplicates_and_stay_whole() -> None:
    letters = str.maketrans("0123456789", "ghijklmnop")  # a digit would be a version
    names = [text.digest(str(n // 2)).translate(letters) for n in range(200)]
    rows = [row(str(n), names[n], noise(str(n)), ["permissive", "copyleft"][n % 2]) for n in range(200)]
    rows += [row("near", "other", noise("5") + " more")]
    groups = compliance.families(rows)
    assert next({r.id for r in g} for g in groups if any(r.id == "near" for r in g)) == {"4", "5", "near"}
    splits = compliance.assign(groups)
    assert sum(map(len, splits.values())) == 201
    assert compliance.leaks(splits) == []
    for split, share in compliance.HELD_OUT.items():
        for category, count in Counter(r.category for r in splits[split]).items():
            assert 0 < count <= share * 101, (split, category)
    assert compliance.assign(groups[::-1]) == splits


@pytest.mark.parametrize(("here", "there"), [("train", "test"), ("train", "validation"), ("validation", "test")])
@pytest.mark.parametrize(
    ("other", "said"),
    [
        (("b", "mit-1.0", noise("other")), "both have mit"),
        (("b", "isc", noise("x") + " more"), "near-duplicates in two splits"),
        (("b", "isc", noise("other")), None),
    ],
)
def test_leaks_are_seen_between_all_splits(other, said: str | None, here: str, there: str) -> None:
    splits = {"train": [], "validation": [], "test": []}
    splits[here], splits[there] = [row("a", "mit", noise("x"))], [row(*other)]
    found = compliance.leaks(splits)
    assert said in found[0] if said else found == []


def test_another_version_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setitem(compliance.PINNED, "licensedcode-data", "0.0.1")
    assert build_data.main(["compliance", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "licensedcode-data==0.0.1" in error
    assert not (tmp_path / "out").exists()


def test_a_leak_is_one_line_and_nothing_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compliance, "check_versions", lambda *_: None)
    files = {f"{n}.RULE": RULE.format(f"name{n}", "notice", "", noise(str(n))) for n in range(40)}
    files |= {f"{n}.LICENSE": LICENCE.format(f"name{n}", "Permissive", "", noise(f"terms {n}")) for n in range(40)}
    monkeypatch.setattr(compliance, "read_package", lambda: entries(files))
    monkeypatch.setattr(compliance, "families", lambda rows: [[r] for r in rows])  # divides licences
    with pytest.raises(UserError, match="leaks between splits, the first: "):
        compliance.build(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_committed_files_are_sound() -> None:
    for line in (COMMITTED / "SHA256SUMS").read_text().splitlines():
        expected, name = line.split("  ")
        assert hashlib.sha256((COMMITTED / name).read_bytes()).hexdigest() == expected
    splits = {
        split: [
            compliance.Row(**json.loads(line))
            for line in (COMMITTED / f"{split}.jsonl").read_text("utf-8").splitlines()
        ]
        for split in compliance.SPLITS
    }
    assert {name: len(rows) for name, rows in splits.items()} == {
        "train": 1349,
        "validation": 204,
        "test": 515,
    }
    assert compliance.leaks(splits) == []
    rows = [r for name in compliance.SPLITS for r in splits[name]]
    assert len({text.normalise(r.text) for r in rows}) == len(rows)
    assert all(compliance.SHORTEST <= len(r.text) <= compliance.LONGEST for r in rows)
    assert all({r.category for r in splits[name]} == set(STRICTNESS) for name in compliance.SPLITS)
    assert all(bool(r.passage) == (r.marked == "yes") and r.passage in r.text for r in rows)
    assert (COMMITTED / "LICENSE").read_text("utf-8").startswith("CC-BY-4.0\n\nCopyright (c) nexB Inc.")


@pytest.mark.slow
def test_committed_files_are_what_the_package_gives(tmp_path: Path) -> None:
    compliance.build(tmp_path)
    assert sorted(p.name for p in (tmp_path / "compliance").iterdir()) == sorted(p.name for p in COMMITTED.iterdir())
    for path in COMMITTED.iterdir():
        assert (tmp_path / "compliance" / path.name).read_bytes() == path.read_bytes(), path.name
