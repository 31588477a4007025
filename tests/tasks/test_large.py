"""Large data: rows and tokens in the cache equal those of the files, after any change of the files."""

from __future__ import annotations

import datetime
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers import load_base, make_task, task_config
from made_tasks import rows_of, write
from made_tokenizers import byte_level
from softprompts.config.sections import TaskConfig
from softprompts.data import tables
from softprompts.encoding import row_tokens
from softprompts.encoding.documents import (
    EncodedTask,
    Example,
    StoredExamples,
    answers_of,
    digest_of_tokens,
    lengths_of,
    with_soft_prompts,
)
from softprompts.encoding.tokenization import encode
from softprompts.errors import UserError
from softprompts.models.loading import InputSpec
from softprompts.tasks import task as tasks
from softprompts.tasks.rows import StoredRows
from softprompts.tasks.task import Task, load_task, with_prompt

import pyarrow
import pyarrow.parquet
import pytest

SPLITS = ("train", "validation", "test")


@pytest.fixture(autouse=True)
def _kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let data of any size count as large."""
    monkeypatch.setattr(tables, "LARGE", 0)
    monkeypatch.setattr(tables, "cache_folder", lambda: tmp_path / "cache")


@pytest.fixture
def config(tmp_path: Path) -> TaskConfig:
    train = write(tmp_path / "train.jsonl", rows_of(2500, n=1.5, tags=["a", None]))
    return TaskConfig("{text}:", " {label}", train=train, choices=[" bad", " good"])


def lists(data: EncodedTask) -> list[list[Example]]:
    return [list(split) for split in (data.train, data.validation, data.test)]


def no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        pytest.fail("read or tokenized once more")

    monkeypatch.setattr(tasks, "write_splits", fail)
    monkeypatch.setattr(row_tokens.RowTokenizer, "write", fail)


@pytest.mark.parametrize("choices", [[" bad", " good"], None, [" bad", " good", " good one"], "from_train"])
def test_what_is_kept_is_what_was_read(
    config: TaskConfig, choices: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, tokenizer = replace(config, choices=choices), byte_level()
    with monkeypatch.context() as patch:
        patch.setattr(tables, "LARGE", 10**9)
        plain = load_task(config)
        expected = encode(plain, tokenizer)
    before = capsys.readouterr().err
    encode(load_task(config), tokenizer)
    assert capsys.readouterr().err == before
    if choices is None or len(choices) != 3:  # if one choice begins another, the first row reports it every time
        monkeypatch.setattr(tables, "_make_files", None)
    monkeypatch.setattr(tasks, "write_splits", None)
    task = load_task(config)
    data = encode(task, tokenizer)
    assert capsys.readouterr().err == before, "what there is to say is said every time"
    assert lists(data) == lists(expected)
    assert (task, task.fingerprint()) == (plain, plain.fingerprint())
    assert isinstance(task.splits["train"], StoredRows)
    assert task.splits["train"].key


def test_nothing_out_of_date_is_taken(config: TaskConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the same size and time, another template, length or tokenizer."""
    path, tokenizer = Path(str(config.train)), byte_level()

    def prompts(**changes: Any) -> list[str]:
        return [row.prompt for row in load_task(replace(config, **changes)).splits["train"]]

    os.utime(path, (1_000_000, 1_000_000))
    first = prompts()
    path.write_text(path.read_text().replace("text 7", "text X"))
    os.utime(path, (1_000_000, 1_000_000))
    second = prompts()
    assert any("text 7" in p for p in first)
    assert any("text X" in p for p in second)
    assert not any("text 7" in p for p in second)
    assert prompts(prompt="{text}?")[0].endswith("?")
    assert len(prompts(max_rows={"train": 3})) == 3

    task = load_task(config)
    data = encode(task, tokenizer)
    with pytest.raises(UserError, match="do not fit into 3"):
        encode(replace(task, config=replace(config, max_length=3)), tokenizer)
    other = byte_level()
    other.add_tokens([" good", "text"])
    assert encode(task, other).train[0].document != data.train[0].document
    no_reading(monkeypatch)
    assert lists(encode(load_task(config), tokenizer)) == lists(data)


@pytest.mark.parametrize("labels", [(1, "none"), (True, False, "maybe")])
def test_choices_may_have_keys_of_several_types(tmp_path: Path, labels: tuple[Any, ...]) -> None:
    """YAML reads `1` and `yes` as other types than the text beside them."""
    rows = [{"text": f"text {i}", "label": str(labels[i % len(labels)])} for i in range(40)]
    choices: Any = {label: f" word{n}" for n, label in enumerate(labels)}
    config = TaskConfig("{text}:", "{label}", train=write(tmp_path / "typed.jsonl", rows), choices=choices)
    task = load_task(config)
    assert task.choices == tuple(choices.values())
    assert load_task(config) == task


def test_places_of_another_path_are_its_own(config: TaskConfig, tmp_path: Path) -> None:
    load_task(config)
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(Path(str(config.train)).read_bytes())
    assert load_task(replace(config, train=str(copy))).splits["train"][0].place.startswith(str(copy))


def test_rows_with_another_prompt_are_kept_too(config: TaskConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    task, tokenizer = load_task(config), byte_level()
    shots = task.splits["train"][:2]
    shown = encode(with_prompt(task, "say {text}:", shots, "\n\n"), tokenizer)
    assert shown.train[0].row.prompt.count("say") == 3
    no_reading(monkeypatch)
    monkeypatch.setattr(tasks, "rewritten", None)
    assert lists(encode(with_prompt(load_task(config), "say {text}:", shots, "\n\n"), tokenizer)) == lists(shown)


def test_what_json_has_no_word_for_stays_in_memory(tmp_path: Path) -> None:
    days = [datetime.date(2024, 5, 1 + i % 30) for i in range(300)]
    table = pyarrow.table({"text": [f"t{i}" for i in range(300)], "label": ["a", "b", "c"] * 100, "day": days})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    task = load_task(TaskConfig("{text} {day}", " {label}", train=str(tmp_path / "a.parquet")))
    rows = {row.record["text"]: row for split in task.splits.values() for row in split}
    assert rows["t31"].record["day"] == datetime.date(2024, 5, 2)
    assert rows["t31"].prompt == "t31 2024-05-02"
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").glob("*/notes.json"))


def test_a_split_is_a_sequence(config: TaskConfig) -> None:
    task = load_task(config)
    train = task.splits["train"]
    rows = list(train)
    data = encode(task, byte_level())
    examples = list(data.train)
    for whole, part in ((rows, train), (examples, data.train)):
        assert list(part[2:1300]) == whole[2:1300]
        assert list(part[::-7]) == whole[::-7]
        assert list(part[5:90][1:3]) == whole[6:8]
        assert (part[-1], part[1200], len(part)) == (whole[-1], whole[1200], len(whole))
        assert part == whole
        assert part != whole[1:]
        assert whole[3] in part
        with pytest.raises(IndexError):
            part[len(whole)]
    for part in (data.train, data.train[7:1100], data.train[::-2]):
        assert lengths_of(part) == lengths_of(list(part))
        assert lengths_of(part, prompts_only=True) == lengths_of(list(part), prompts_only=True)
        assert lengths_of(part, longest_choice=True) == lengths_of(list(part), longest_choice=True)
        assert list(answers_of(part)) == list(answers_of(list(part)))
        assert digest_of_tokens(part) == digest_of_tokens(list(part))


@pytest.mark.parametrize("choices", [(" good", " bad"), None])
def test_moved_examples_have_the_digest_of_their_soft_prompts(choices: Any) -> None:
    data = encode(make_task([("the film", " good"), ("the plot", " bad")], choices), byte_level())
    moved = with_soft_prompts(data, lambda example: len(example.row.place) - 5)
    assert isinstance(moved.train, StoredExamples)
    assert {d.soft_prompt for e in moved.train for d in (e.document, *e.choices)} == {0}
    moved = with_soft_prompts(data, lambda example: int(example.row.place[-1]))
    assert digest_of_tokens(moved.train) == digest_of_tokens(list(moved.train)) != digest_of_tokens(data.train)


def many(folder: Path, labels: str, last: str) -> dict[str, str]:
    """Write files of 5,000 rows, of which a late one is malformed."""
    lines = [json.dumps({"text": f"t{i}", "label": labels[i * len(labels) // 5000]}) for i in range(5000)]
    whole = {split: folder / f"{split}.jsonl" for split in SPLITS}
    for path in whole.values():
        path.write_text("\n".join([*lines, last]) + "\n")
    return {split: str(path) for split, path in whole.items()}


def test_with_max_rows_the_rest_of_a_file_is_not_read(tmp_path: Path) -> None:
    files = many(tmp_path, "ab" * 2500, "{malformed")
    few = dict.fromkeys(SPLITS, 10)
    for choices in (None, [" a", " b"]):
        task = load_task(TaskConfig("{text}:", " {label}", **files, choices=choices, max_rows=few))
        assert {name: len(rows) for name, rows in task.splits.items()} == few
    with pytest.raises(UserError, match=r"train\.jsonl:5001: malformed JSON"):  # all labels have to be found
        load_task(TaskConfig("{text}:", " {label}", **files, choices="from_train", max_rows=few))
    with pytest.raises(UserError, match=r"train\.jsonl:5001: malformed JSON"):  # nor is it known if there is a "c"
        load_task(TaskConfig("{text}:", " {label}", **files, where={"label": ["a", "c"]}, max_rows=few))


def test_a_sorted_file_is_read_until_that_is_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = many(tmp_path, "ab", "{malformed")
    load_task(TaskConfig("{text}:", " {label}", **files, choices=[" a", " b"], max_rows=dict.fromkeys(SPLITS, 10)))
    assert capsys.readouterr().err.count("the file seems sorted; shuffle it") == 3


def test_rows_held_out_of_the_first_rows_are_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = many(tmp_path, "ab" * 2500, "{malformed")
    load_task(TaskConfig("{text}:", " {label}", train=files["train"], max_rows=dict.fromkeys(SPLITS, 10)))
    assert "rows of the first 1,000 rows of train" in capsys.readouterr().err


def test_of_several_bad_rows_the_first_is_named(tiny_model: Path, tiny_task: Path) -> None:
    _, tokenizer = load_base(tiny_model)
    rows = [("a b", " good")] * 5 + [("a " * 30, " good"), ("", " good"), ("a " * 40, " good")]
    with pytest.raises(UserError, match=r"^row 6: 3\d tokens .* do not fit into 20"):
        encode(make_task(rows), tokenizer, InputSpec(room=20))


def test_a_misspelt_name_in_rename_is_what_is_wrong(tiny_task: Path) -> None:
    """And not the column that is missing for it."""
    with pytest.raises(UserError, match=r'^task\.rename: no split has a column "txt" \(did you mean "text"\?\)'):
        load_task(replace(task_config(tiny_task, rename={"txt": "body"}), prompt="{body}:"))


def test_tasks_of_other_rows_are_not_equal(config: TaskConfig) -> None:
    task = load_task(config)
    other: Task = replace(task, splits=task.splits | {"test": task.splits["test"][1:]})
    assert task != other
