"""The campaign build: reading topics and ports, lines in their voice, groups and splits, and the committed files."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import os
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

from softprompts.errors import UserError

import pytest

ROOT = Path(__file__).parents[2]
build_data = importlib.import_module("scripts.build_data.__main__")
campaign = importlib.import_module("scripts.build_data.campaign.build")
download = importlib.import_module("scripts.build_data.download")
sources = importlib.import_module("scripts.build_data.campaign.sources")
style = importlib.import_module("softprompts.metrics.modules.brand_voice")
text = importlib.import_module("scripts.build_data.text")

COMMITTED = ROOT / "data" / "campaign"
TOPIC = """---
display_name: Pug
short_description: Pug is a templating language for HTML.
---
## About
Pug is [clean](https://x.test) and **whitespace-sensitive**. It was
called `Jade`, e.g. in Express.

- a list

    code
It consists of:
"""
PORT = "NAMEBASE=\tzsh\nSDESC[standard]=\tInteractive Z Shell\nSDESC[docs]=\tDocuments\n"


def noise(key: str, words: int = 14) -> str:
    """A sentence of words made of a hash: no two resemble each other by accident."""
    return " ".join(text.digest(f"{key}{i}")[:9] for i in range(words)).capitalize() + "."


def row(key: str, name: str, voice: str = "explore", description: str | None = None, copy: str | None = None) -> Any:
    return campaign.Row(key, voice, name, description or noise(f"d{key}"), copy or noise(f"c{key}", 5))


def product(name: str, description: str, copy: str) -> Any:
    return sources.Product(f"bucket_0/{name}/specification", name, description, copy)


def archive(folder: Path, name: str, files: dict[str, str]) -> Path:
    path = folder / f"{name}.tar.gz"
    with tarfile.open(path, mode="w:gz") as tar:
        for inner, content in files.items():
            member = tarfile.TarInfo(f"top/{inner}")
            member.size = len(content.encode())
            tar.addfile(member, io.BytesIO(content.encode()))
    return path


def test_topics_and_ports_are_read_as_plain_text() -> None:
    topics = {"topics/pug/index.md": TOPIC, "topics/pug/pug.png": "x", "collections/a/index.md": TOPIC}
    assert list(sources.read_topics(topics)) == [
        sources.Product(
            "topics/pug/index.md",
            "Pug",
            "Pug is clean and whitespace-sensitive. It was called Jade, e.g. in Express.",
            "Pug is a templating language for HTML.",
        )
    ]
    ports = {
        "bucket_0/zsh/specification": PORT,
        "bucket_0/zsh/descriptions/desc.single": "Zsh\n===\n\nA shell for\npeople. It completes.\n\nParts:\n * one\n",
        "bucket_0/bare/specification": "SDESC[x11]= A label",
        "bucket_0/bare/descriptions/desc.primary": "It is bare.",
    }
    assert [(p.name, p.description, p.copy) for p in sources.read_ports(ports)] == [
        ("zsh", "A shell for people. It completes.", "Interactive Z Shell"),
        ("bare", "It is bare.", ""),
    ]


def test_a_description_has_the_whole_sentences_that_fit() -> None:
    long = " ".join(noise(str(n)) for n in range(10))
    cut = sources.describe(long)
    assert sources.DESCRIPTION - 200 < len(cut) <= sources.DESCRIPTION
    assert long.startswith(cut)
    assert cut.endswith(".")
    assert sources.describe("A sentence. And a part of") == "A sentence."


@pytest.mark.parametrize(
    ("voice", "found", "reason"),
    [
        ("explore", product("a", noise("a"), "It draws charts for you."), None),
        ("explore", product("a", noise("a"), "It draws charts for you"), "not in voice"),
        ("explore", product("a", noise("a") + " It draws charts for you, too.", "It draws charts for you."), "copied"),
        ("explore", product("a", noise("a") + " It draws charts for all.", "It draws charts for you."), "copied"),
        ("explore", product("a", noise("a") + " Write to me@a.test.", "It draws charts for you."), "address"),
        ("explore", product("a", "Short.", "It draws charts for you."), "short"),
        ("explore", product("a", noise("a"), "Charts."), "short"),
        ("ravenports", product("a", noise("a"), "Painter of charts"), None),
        ("ravenports", product("painter", noise("a"), "Painter of charts"), "named"),
        ("ravenports", product("a", noise("a"), "Painter of charts (${B})"), "variable"),
        ("ravenports", product("a", noise("a"), ""), "no line"),
        ("ravenports", product("perl-Chart", noise("a"), "Painter of charts"), "generated"),
    ],
)
def test_a_product_is_left_out_for_the_first_reason_that_holds(voice: str, found: Any, reason: str | None) -> None:
    stats: dict[str, Counter[str]] = {voice: Counter()}
    rows = campaign.read_rows(voice, [found], stats)
    assert stats[voice] == Counter({"source rows": 1} | ({reason: 1} if reason else {}))
    assert [r.id for r in rows] == ([] if reason else [f"{voice}-{found.name}"])


def test_repeats_and_near_duplicates_are_dropped() -> None:
    rows = [row("1", "a"), row("2", "b", description=noise("d1")), row("3", "c", copy=noise("c1", 5).upper())]
    rows += [row("4", "d", description=noise("d1") + " more", copy=noise("c1", 5) + " more"), row("5", "e")]
    stats: dict[str, Counter[str]] = {"explore": Counter()}
    assert [r.id for r in campaign.drop_repeats(rows, stats)] == ["1", "5"]
    assert stats["explore"] == {"repeats": 2, "near duplicates": 1}


def test_groups_link_products_of_both_voices_and_stay_whole() -> None:
    rows = [row(f"{voice}{n}", f"name {n}", voice) for voice in campaign.SOURCES for n in range(100)]
    rows += [row("near", "other", copy=noise("cexplore5", 5).replace(".", " more."))]
    groups = campaign.group(rows)
    near = next(members for members in groups if any(r.id == "near" for r in members))
    assert {r.id for r in near} == {"explore5", "ravenports5", "near"}
    splits = campaign.assign(groups, {"test": 30, "validation": 10})
    assert Counter(r.voice for r in splits["test"]) == {"explore": 30, "ravenports": 30}
    assert Counter(r.voice for r in splits["validation"])["ravenports"] == 10
    assert campaign.leaks(splits) == []
    assert campaign.assign(groups[::-1], {"test": 30, "validation": 10}) == splits


@pytest.mark.parametrize(("here", "there"), [("train", "test"), ("train", "validation"), ("validation", "test")])
@pytest.mark.parametrize(
    ("other", "said"),
    [
        (row("b", "Zsh"), "both have the product zsh"),
        (row("b", "x", description=noise("da") + " more"), "near-duplicate description"),
        (row("b", "x", copy=noise("ca", 5) + " more"), "near-duplicate copy"),
        (row("b", "x"), None),
    ],
)
def test_leaks_are_seen_between_all_splits(other: Any, said: str | None, here: str, there: str) -> None:
    splits: dict[str, list[Any]] = {"train": [], "validation": [], "test": []}
    splits[here], splits[there] = [row("a", "zsh")], [other]
    found = campaign.leaks(splits)
    assert said in found[0] if said else found == []


def test_an_archive_is_checked_by_the_content_of_its_files(tmp_path: Path) -> None:
    files = {"topics/b/index.md": "two", "topics/a/index.md": "one", "other.md": "three"}
    archive(tmp_path, "name-0a1b", files)
    wanted = {"topics/a/index.md": "one", "topics/b/index.md": "two"}
    sha256 = download.contents_digest(wanted)
    read = ("owner/name", "0a1b", lambda path: path in wanted, sha256, tmp_path)
    assert list(download.read_archive(*read).items()) == list(wanted.items())
    archive(tmp_path, "name-0a1b", files | {"topics/a/index.md": "One"})
    with pytest.raises(UserError, match=f"the SHA-256 of its 2 files is .*, expected {sha256}"):
        download.read_archive(*read)
    (tmp_path / "name-0a1b.tar.gz").write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"is not a readable \.tar\.gz archive"):
        download.read_archive(*read)


def test_another_archive_is_one_line_and_nothing_is_written(tmp_path: Path, capsys) -> None:
    explore = campaign.SOURCES["explore"]
    archive(tmp_path, f"explore-{explore.commit}", {"topics/pug/index.md": TOPIC})
    assert build_data.main(["campaign", "--sources", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert explore.sha256 in error
    assert not (tmp_path / "out").exists()


def test_committed_files_are_sound() -> None:
    for line in (COMMITTED / "SHA256SUMS").read_text().splitlines():
        expected, name = line.split("  ")
        assert hashlib.sha256((COMMITTED / name).read_bytes()).hexdigest() == expected
    splits = {
        split: [
            campaign.Row(**json.loads(line)) for line in (COMMITTED / f"{split}.jsonl").read_text("utf-8").splitlines()
        ]
        for split in campaign.SPLITS
    }
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 1013, "validation": 120, "test": 300}
    assert campaign.leaks(splits) == []
    rows = [r for split in campaign.SPLITS for r in splits[split]]
    assert len({text.normalise(r.copy) for r in rows}) == len({r.id for r in rows}) == len(rows)
    assert all(style.voice_of(r.copy) == campaign.SOURCES[r.voice].style for r in rows)
    assert not any(campaign.is_copied(r.copy, r.description) for r in rows)
    assert all(campaign.SHORTEST <= len(r.description) <= sources.DESCRIPTION for r in rows)
    for split, most in campaign.HELD_OUT.items():
        assert Counter(r.voice for r in splits[split]) == dict.fromkeys(campaign.SOURCES, most)
    licence = (COMMITTED / "LICENSE").read_text("utf-8")
    assert "under the CC-BY-4.0 license" in licence
    assert "Copyright (c) 2017-2021, The Ravenports Project." in licence


@pytest.mark.skipif("SOFTPROMPTS_SOURCES" not in os.environ, reason="needs the archives of the sources")
def test_committed_files_are_what_the_sources_give(tmp_path: Path) -> None:
    campaign.build(tmp_path, Path(os.environ["SOFTPROMPTS_SOURCES"]))
    assert sorted(p.name for p in (tmp_path / "campaign").iterdir()) == sorted(p.name for p in COMMITTED.iterdir())
    for path in COMMITTED.iterdir():
        assert (tmp_path / "campaign" / path.name).read_bytes() == path.read_bytes(), path.name
