"""The data builds: text tools, splits, the sentiment build on a made-up archive, and the committed files."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import os
import tarfile
from collections import Counter
from pathlib import Path

from softprompts.errors import UserError

import pytest

ROOT = Path(__file__).parents[2]
build_data = importlib.import_module("scripts.build_data.__main__")
sentiment = importlib.import_module("scripts.build_data.sentiment.build")
text = importlib.import_module("scripts.build_data.text")

COMMITTED = ROOT / "data" / "sentiment"
SIZES = {"test": 6, "validation": 3}
VERBS = ["adored", "hated", "watched", "bought", "broke", "praised", "returned", "enjoyed"]
NOUNS = ["harbour", "camera", "novel", "ticket", "kettle", "garden", "verdict", "bicycle", "senator"]


def row(key: str, body: str, label: str = "positive", group: str | None = None, domain: str = "tweets"):
    rating = 2.0 if label == "positive" else -2.0
    return sentiment.Row(f"{domain}-{key}", domain, body, label, rating, group or f"{domain}/{key}")


def new_stats():
    return {domain: Counter() for domain in sentiment.DOMAINS}


def tar_gz(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def archive(tmp_path: Path) -> tuple[Path, str]:
    """A small archive laid out as the source distribution, and its SHA-256."""
    files = {}
    for d, (domain, stem) in enumerate(sentiment.DOMAINS.items()):
        lines = []
        for n in range(40):
            # Words made of a hash: no two sentences resemble each other by accident.
            noise = " ".join(text.digest(f"{d}{n}{i}")[:7] for i in range(6))
            key = f"{n // 4}_{n % 4}" if domain in ("products", "editorials") else str(n)
            rating = (0.4, 2.25, -1.5, 3.1)[n % 4]
            lines.append(f"{key}\t{rating}\tThey {VERBS[n % 8]} the {NOUNS[n % 9]} &amp; {noise} é.")
        lines += [f"90{i}_1\t-2.0\tExactly the same words in all domains{'!' * i}" for i in range(3)]
        files[f"top/{stem}_GroundTruth.txt"] = "\r\n".join([*lines, ""]).encode()
    sdist = tar_gz({f"v-1/{sentiment.INNER}": tar_gz(files), "v-1/LICENSE.txt": b"MIT\r\nLicence\r\n"})
    path = tmp_path / "v-1.tar.gz"
    path.write_bytes(sdist)
    return path, hashlib.sha256(sdist).hexdigest()


def read_splits(folder: Path) -> dict[str, list[dict[str, object]]]:
    return {
        split: [json.loads(line) for line in (folder / f"{split}.jsonl").read_text("utf-8").split("\n") if line]
        for split in sentiment.SPLITS
    }


def check_folder(folder: Path) -> dict[str, list[dict[str, object]]]:
    """Check the requirements of every build; return the splits."""
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        expected, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == expected
    splits = read_splits(folder)
    rows = [item for split in splits.values() for item in split]
    assert all(list(item) == ["id", "domain", "text", "label", "rating"] for item in rows)
    assert all(item["label"] == ("positive" if item["rating"] > 0 else "negative") for item in rows)
    assert all(abs(item["rating"]) >= sentiment.MIN_RATING for item in rows)
    assert len({item["id"] for item in rows}) == len(rows)
    assert len({text.normalise(item["text"]) for item in rows}) == len(rows)
    for domain in ("products", "editorials"):
        documents = [{r["id"].split("_")[0] for r in s if r["domain"] == domain} for s in splits.values()]
        assert sum(map(len, documents)) == len(set().union(*documents))
    return splits


def test_clean_unescapes_and_collapses() -> None:
    assert text.clean("  Tom &amp; \t Jerry &lt;3\r ") == "Tom & Jerry <3"
    assert text.clean("Lord &amp;amp; Taylor") == "Lord & Taylor"
    assert text.clean("one\u2028two\xa0three") == "one two three"
    assert text.clean("''quoted''  AS IS...") == "''quoted'' AS IS..."


def test_normalise_keeps_letters_and_digits() -> None:
    assert text.normalise("Don't  PANIC, été 42!") == "dontpanicété42"


def test_parse_filters_and_labels() -> None:
    lines = ["1_1\t-0.9\tbad &amp; ugly", "1_2\t0.49\tmeh", "2_1\t0.5\tfine", "2_2\t2\t:) !!", "2_3\t1\t "]
    stats = new_stats()
    rows = sentiment.parse("products", "\r\n".join(lines).encode(), stats)
    assert [(r.id, r.text, r.label, r.group) for r in rows] == [
        ("products-1_1", "bad & ugly", "negative", "products/1"),
        ("products-2_1", "fine", "positive", "products/2"),
    ]
    assert stats["products"] == {"source rows": 5, "rated near zero": 1, "no letter": 2}


@pytest.mark.parametrize("line", ["1\t2.0", "1\tgood\ttext", "1\t2.0\ta\tb"])
def test_parse_names_the_malformed_line(line: str) -> None:
    with pytest.raises(UserError, match="line 2"):
        sentiment.parse("tweets", f"1\t2\tok\r\n{line}\r\n".encode(), new_stats())


def test_exact_duplicates_keep_the_first_and_conflicts_none() -> None:
    stats = new_stats()
    rows = [row("1", "Great!"), row("2", "great"), row("3", "So so"), row("4", "so, so", "negative")]
    assert [r.id for r in sentiment.drop_exact(rows, stats)] == ["tweets-1"]
    assert stats["tweets"] == {"exact duplicates": 1, "conflicting duplicates": 2}


@pytest.mark.parametrize(
    ("first", "second", "near"),
    [
        ("Damn, running late sucks.", "Damn! running late absolutely sucks!", True),  # a word put in
        ("do not buy this player.", "don't buy this player.", True),  # spelt differently
        ("most bang for the buck.", "the most bang-for-the-buck", True),
        ("thank you!", "@anonymous @anonymous Thank you.", True),  # placeholders do not count
        ("great camera.", "great plan.", False),
        ("I love this camera.", "This phone was a complete waste of money.", False),
        ("@anonymous :) http://url_removed", "@anonymous :( http://url_removed", False),  # no words at all
        ("no", "yes", False),
        ("ok", "OK @anonymous", True),  # shorter than a shingle
    ],
)
def test_near_duplicates(first: str, second: str, near: bool) -> None:
    assert text.near_pairs([first, second]) == ([(0, 1)] if near else [])


def test_near_pairs_are_exhaustive() -> None:
    bodies = [f"{a} {b} {c}" for a in VERBS[:5] for b in NOUNS[:5] for c in ("today", "todays", "now")]

    def jaccard(a: set[str], b: set[str]) -> float:
        return len(a & b) / len(a | b)

    expected = [
        (i, j)
        for i in range(len(bodies))
        for j in range(i + 1, len(bodies))
        if jaccard(text.word_set(bodies[i]), text.word_set(bodies[j])) >= text.WORD_THRESHOLD
        or jaccard(text.char_shingles(bodies[i]), text.char_shingles(bodies[j])) >= text.CHAR_THRESHOLD
    ]
    assert 0 < len(expected) < len(bodies) ** 2 / 2
    assert text.near_pairs(bodies) == expected
    assert text.near_pairs(bodies, start=40) == [(i, j) for i, j in expected if j >= 40]


def test_drop_near_leaves_no_pair_and_keeps_rows_near_only_to_dropped_ones() -> None:
    bodies = ["a b c d", "a b c d e f", "b c d e f g h", "nothing like these"]
    assert text.near_pairs(bodies) == [(0, 1), (1, 2)]
    kept = sentiment.drop_near([row(str(i), body) for i, body in enumerate(bodies)], new_stats())
    assert [r.id for r in kept] == ["tweets-0", "tweets-2", "tweets-3"]


def test_assign_splits_keeps_documents_whole_and_fills_the_held_out_splits() -> None:
    rows = [
        row(f"{n}_{i}", f"{n} {i}", group=f"{domain}/{n}", domain=domain)
        for domain in ("products", "editorials")
        for n in range(60)
        for i in range(1 + n % 7)
    ]
    splits = sentiment.assign_splits(rows, {"test": 40, "validation": 15})
    groups = [{r.group for r in split} for split in splits.values()]
    assert sum(map(len, groups)) == len(set().union(*groups)) == 120
    assert Counter(r.domain for r in splits["test"]) == {"products": 40, "editorials": 40}
    assert Counter(r.domain for r in splits["validation"]) == {"products": 15, "editorials": 15}
    # The order of the input does not matter, and the rows are shuffled.
    assert sentiment.assign_splits(rows[::-1], {"test": 40, "validation": 15}) == splits
    assert {r.domain for r in splits["train"][:20]} == {"products", "editorials"}


def test_cross_split_pairs_sees_every_pair_of_splits() -> None:
    same = [row("1", "a lovely little film"), row("2", "lovely little film"), row("3", "what a din")]
    for here, there in [("train", "test"), ("train", "validation"), ("validation", "test")]:
        splits = {"train": [same[2]], "validation": [], "test": []}
        splits[here] = [*splits[here], same[0]]
        splits[there] = [*splits[there], same[1]]
        assert {r.id for r in sentiment.cross_split_pairs(splits)[0]} == {"tweets-1", "tweets-2"}
    assert not sentiment.cross_split_pairs({"train": same, "validation": [], "test": []})


def test_build_is_deterministic_and_sound(archive: tuple[Path, str], tmp_path: Path) -> None:
    source, sha256 = archive
    outs = [tmp_path / "a", tmp_path / "b"]
    for out in outs:
        assert "16 validation, 33 test" in sentiment.build(source, out, sha256, SIZES)
    names = sorted(path.name for path in (outs[0] / "sentiment").iterdir())
    assert names == ["LICENSE", "README.md", "SHA256SUMS", "test.jsonl", "train.jsonl", "validation.jsonl"]
    for name in names:
        assert (outs[0] / "sentiment" / name).read_bytes() == (outs[1] / "sentiment" / name).read_bytes()
    splits = check_folder(outs[0] / "sentiment")
    # 30 of 40 generated rows a domain are far enough from zero; the repeated sentence stays once in all.
    assert Counter(r["domain"] for s in splits.values() for r in s) == {
        "movies": 31,
        "products": 30,
        "tweets": 30,
        "editorials": 30,
    }
    assert (outs[0] / "sentiment" / "LICENSE").read_bytes() == b"MIT\nLicence\n"
    train = (outs[0] / "sentiment" / "train.jsonl").read_text("utf-8")
    assert "é." in train
    assert "&amp;" not in train
    assert "| movies | 43 | 10 | 0 | 2 | 0 | 0 | 31 | 31 |" in (outs[0] / "sentiment" / "README.md").read_text()


def test_build_fails_on_a_leak_and_writes_nothing(
    archive: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentiment, "drop_exact", lambda rows, stats: rows)
    monkeypatch.setattr(sentiment, "drop_near", lambda rows, stats: rows)
    with pytest.raises(UserError, match="near-duplicate pairs are in different splits"):
        sentiment.build(archive[0], tmp_path / "out", archive[1], SIZES)
    assert not (tmp_path / "out").exists()


def test_cli_refuses_another_archive(
    archive: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build_data.main(["sentiment", "--source", str(archive[0]), "--out", str(tmp_path / "o")]) == 2
    error = capsys.readouterr().err
    assert archive[1] in error
    assert sentiment.SDIST_SHA256 in error
    assert error.count("\n") == 1
    assert not (tmp_path / "o").exists()
    assert build_data.main(["sentiment", "--source", str(tmp_path / "absent.tar.gz")]) == 2
    assert "absent.tar.gz" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"plain text", "not a readable"), (tar_gz({"v-1/LICENSE.txt": b"MIT"}), "has no file")],
)
def test_build_names_a_broken_archive(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "v.tar.gz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=reason):
        sentiment.build(path, tmp_path / "out", hashlib.sha256(content).hexdigest())


def test_committed_files_are_sound() -> None:
    splits = check_folder(COMMITTED)
    assert {name: len(rows) for name, rows in splits.items()} == {
        "train": 16078,
        "validation": 825,
        "test": 2200,
    }
    assert {item["domain"] for rows in splits.values() for item in rows} == set(sentiment.DOMAINS)
    texts = [item["text"] for name in sentiment.SPLITS for item in splits[name]]
    assert not text.near_pairs(texts, start=len(splits["train"]))
    readme = (COMMITTED / "README.md").read_text("utf-8")
    for domain in sentiment.DOMAINS:
        for name, rows in splits.items():
            labels = Counter(item["label"] for item in rows if item["domain"] == domain)
            assert f"| {domain} | {name} | {labels['negative']} | {labels['positive']} |" in readme


@pytest.mark.skipif("SOFTPROMPTS_VADER_SDIST" not in os.environ, reason="needs the real source archive")
def test_committed_files_are_what_the_source_gives(tmp_path: Path) -> None:
    sentiment.build(Path(os.environ["SOFTPROMPTS_VADER_SDIST"]), tmp_path)
    for path in COMMITTED.iterdir():
        assert (tmp_path / "sentiment" / path.name).read_bytes() == path.read_bytes()
