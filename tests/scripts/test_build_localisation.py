"""The localisation build: reading catalogues, groups and splits, glossary and required terms, the committed files."""

from __future__ import annotations

import hashlib
import importlib
import json
import struct
from collections import Counter
from pathlib import Path

from softprompts.metrics.scoring import compute_metrics, load_metrics

import pytest

ROOT = Path(__file__).parents[2]
build_data = importlib.import_module("scripts.build_data.__main__")
localisation = importlib.import_module("scripts.build_data.localisation.build")
text = importlib.import_module("scripts.build_data.text")

COMMITTED = ROOT / "data" / "localisation"


def catalogue(entries: dict[str, str], order: str = "<") -> bytes:
    """Return a compiled catalogue, as msgfmt writes it."""
    places, texts = [], b""
    start = 28 + 16 * len(entries)
    for column in (list(entries), list(entries.values())):
        for value in column:
            data = value.encode("utf-8")
            places += [len(data), start + len(texts)]
            texts += data + b"\0"
    head = (localisation.MAGIC, 0, len(entries), 28, 28 + 8 * len(entries), 0, 0)
    return struct.pack(f"{order}7I{len(places)}I", *head, *places) + texts


def noise(key: str, words: int = 6) -> str:
    """A text of words made of a hash: no two resemble each other by accident."""
    return " ".join(text.digest(f"{key}{i}")[:9] for i in range(words))


def row(english: str, translation: str, language: str = "German"):
    return localisation.Row(f"{language}-{english}", "jupyterlab", language, english, translation)


@pytest.mark.parametrize("order", ["<", ">"])
def test_catalogues_of_either_byte_order(order: str) -> None:
    entries = {
        "": "Content-Type: text/plain; charset=UTF-8\n",
        "Cell": "Zelle",
        "menu\x04Open": "Öffnen",
        "%d row\0%d rows": "%d Zeile\0%d Zeilen",
    }
    found = dict(localisation.read_catalogue(catalogue(entries, order)))
    assert found == {"Cell": "Zelle", "Open": "Öffnen", "%d row": "%d Zeile"}


@pytest.mark.parametrize(
    ("english", "translation", "reason"),
    [
        ("Restart the kernel", "Kernel neu starten", None),
        ("%(count)s of {total}", "%(count)s von {total}", None),
        ("%s: {0}", "{0}: %s", "no letters"),
        ("Hi", "Na", "length"),
        ("ab " * 200, "cd " * 200, "length"),
        ("Terminal", "Terminal!", "not translated"),
        ("Delete %s?", "Löschen?", "other placeholders"),
        ("Run <b>all</b>", "Alle <i>ausführen</i>", "other placeholders"),
        ("Save", "Dieses Dokument jetzt auf der Platte speichern", "other length"),
    ],
)
def test_why_a_pair_is_left_out(english: str, translation: str, reason: str | None) -> None:
    assert localisation.left_out(english, translation) == reason


def test_rows_are_the_first_of_each_language_and_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = {
        ("a", "de"): {"Open file": "Datei öffnen"},
        ("b", "de"): {"open  file": "Öffnen"},
        ("b", "fr"): {"Run": "Aller"},
    }
    for (name, code), entries in files.items():
        (tmp_path / f"{name}-{code}").write_bytes(catalogue(entries))
    monkeypatch.setattr(
        localisation, "catalogues", lambda: [(name, code, tmp_path / f"{name}-{code}") for name, code in files]
    )
    stats: Counter[str] = Counter()
    rows = localisation.read_rows(stats)
    assert [(r.catalogue, r.language, r.text, r.translation) for r in rows] == [
        ("a", "German", "Open file", "Datei öffnen"),
        ("b", "French", "Run", "Aller"),
    ]
    assert stats == {"entries": 3, "in an earlier catalogue": 1}


def test_repeats_are_dropped_by_english_text_and_by_translation() -> None:
    rows = [
        row("Open the file now", "eins"),
        row("Open the file now!", "zwei"),  # nearly the same
        row("Delete", "Entfernen"),
        row("Remove", "entfernen!"),  # translated alike
        row("Remove", "Retirer", "French"),
    ]
    stats: Counter[str] = Counter()
    left = localisation.drop_repeats(rows, stats)
    assert len([r for r in left if r.text.startswith("Open")]) == 1
    assert len([r for r in left if r.language == "German"]) == 2
    assert stats == {"near-duplicates": 1, "same translation": 1}


def test_all_translations_of_a_text_and_texts_translated_alike_are_in_one_split() -> None:
    rows = [
        row(noise(str(n)), noise(f"{language}{n}"), language) for n in range(100) for language in ("German", "French")
    ]
    rows += [row(noise(f"other{n}"), noise(f"German{n}") + " mehr") for n in range(30)]
    splits = localisation.assign(rows)
    assert localisation.leaks(splits) == []
    of = {r.text: split for split, members in splits.items() for r in members}
    assert all(of[noise(f"other{n}")] == of[noise(str(n))] for n in range(30))
    for split, share in localisation.HELD_OUT.items():
        assert 0.5 * share * 130 < len({r.text for r in splits[split]}) <= share * 130
    assert localisation.assign(rows[::-1]) == splits


@pytest.mark.parametrize(("here", "there"), [("train", "test"), ("train", "validation"), ("validation", "test")])
@pytest.mark.parametrize("column", ["text", "translation", None])
def test_leaks_are_seen_between_all_splits(column: str | None, here: str, there: str) -> None:
    splits = {"train": [], "validation": [], "test": []}
    other = {"text": noise("b"), "translation": noise("y")} | ({column: noise("x") + " more"} if column else {})
    splits[here] = [row(noise("x"), noise("x"))]
    splits[there] = [row(other["text"], other["translation"])]
    assert len(localisation.leaks(splits)) == (column is not None)


def test_terms_are_short_texts_that_other_texts_have_and_their_forms_are_found() -> None:
    rows = [row("Cell", "Zelle"), row("Rare", "Selten"), row("May", "Mai"), row("Zellen", "Zellig")]
    rows += [row(f"Run the cell {noise(str(n), 2)}", f"Die Zellen {noise(str(n), 2)} Zellenbereich") for n in range(6)]
    rows += [row(f"You may {noise('may' + str(n), 2)}", f"Das {noise('darf' + str(n), 2)}") for n in range(6)]
    rows += [row(f"The page {noise('p' + str(n), 2)}", f"Blatt {noise('b' + str(n), 2)}") for n in range(6)] + [
        row("Page", "Seite")
    ]
    terms = localisation.glossary(rows)["German"]
    assert terms == {"cell": ["zelle", "zellen"]}
    asked = row("Delete %s of the cell", "%s der Zelle löschen")
    assert localisation.mentions(asked, terms) == [["%s"], ["zelle", "zellen"]]
    assert localisation.mentions(row("Cellular cells", "Zelle"), terms) == []  # the text lacks the term as a word
    assert localisation.mentions(row("Delete cell", "Feld löschen"), terms) == []  # the reference has another word
    data = localisation.metric_data({"validation": [], "test": [asked]}, {"German": terms})
    assert data == {"%s der Zelle löschen": {"mentions": [["%s"], ["zelle", "zellen"]]}}


def test_another_version_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setitem(localisation.PINNED, "django", "0.0.1")
    assert build_data.main(["localisation", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "django==0.0.1" in error
    assert not (tmp_path / "out").exists()


def test_committed_files_are_sound() -> None:
    for line in (COMMITTED / "SHA256SUMS").read_text().splitlines():
        expected, name = line.split("  ")
        assert hashlib.sha256((COMMITTED / name).read_bytes()).hexdigest() == expected
    splits = {
        split: [
            localisation.Row(**json.loads(line))
            for line in (COMMITTED / f"{split}.jsonl").read_text("utf-8").splitlines()
        ]
        for split in localisation.SPLITS
    }
    assert localisation.leaks(splits) == []
    rows = [r for name in localisation.SPLITS for r in splits[name]]
    assert len({r.id for r in rows}) == len(rows)
    assert all(localisation.left_out(r.text, r.translation) is None for r in rows)
    assert all({r.language for r in members} == set(localisation.LANGUAGES.values()) for members in splits.values())
    # The references contain all required mentions.
    data = json.loads((COMMITTED / "terms.json").read_text("utf-8"))
    held = [r.translation for name in ("validation", "test") for r in splits[name]]
    assert set(data) <= set(held)
    assert len(data) > 0.1 * len(held)
    assert compute_metrics(load_metrics(["mentions"], data=data), held, held) == {
        "mention_rate": 1.0,
        "all_mentioned": 1.0,
    }


@pytest.mark.slow
def test_committed_files_are_what_the_packages_give(tmp_path: Path) -> None:
    localisation.build(tmp_path)
    assert sorted(p.name for p in (tmp_path / "localisation").iterdir()) == sorted(p.name for p in COMMITTED.iterdir())
    for path in COMMITTED.iterdir():
        assert (tmp_path / "localisation" / path.name).read_bytes() == path.read_bytes(), path.name
