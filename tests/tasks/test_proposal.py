"""Settings found in a user's file: columns, choices, metrics, sizes, notes, and the written config."""

from __future__ import annotations

import json
import unicodedata
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers import ROOT, load_recipe
from made_tasks import write
from softprompts.config.cli import parse
from softprompts.config.sections import ModelConfig
from softprompts.config.tools import NewConfig
from softprompts.errors import UserError
from softprompts.tasks import proposal as proposal_module
from softprompts.tasks.proposal import Proposal, config_text, fit_sizes, propose, write_proposal
from softprompts.tasks.task import load_task

import pytest
import yaml


def words_of(texts: Sequence[str]) -> list[int]:
    """Return the number of words: a tokenizer that is easy to count with."""
    return [len(text.split()) for text in texts]


def tickets(count: int = 60, **more: Any) -> list[dict[str, Any]]:
    queues = ["billing", "shipping", "account"]
    return [
        {"id": f"T{n}", "body": f"please help me with case {n}", "queue": queues[n % 3]} | more for n in range(count)
    ]


def proposal(folder: Path, rows: list[dict[str, Any]], **new: Any) -> Proposal:
    settings = {"task": "mine", "data": write(folder / "rows.jsonl", rows), "output": str(folder / "new" / "mine.yaml")}
    return propose(NewConfig(**(settings | new)))


def sized(folder: Path, rows: list[dict[str, Any]], **new: Any) -> Proposal:
    found = proposal(folder, rows, **new)
    return fit_sizes(found, load_task(found.task), words_of)


def test_choices_from_a_few_short_answers(tmp_path: Path) -> None:
    found = proposal(tmp_path, tickets())
    assert (found.task.prompt, found.task.target) == ("{body}\nQueue:", " {queue}")
    assert (found.task.choices, found.task.metrics) == ("from_train", ["accuracy", "macro_f1"])
    assert (
        found.prompt.prompt_tuning_init_text == "Choose the queue of the following body: billing, shipping or account."
    )


@pytest.mark.parametrize(
    ("answers", "metrics"),
    [
        ([f"sentence number {n} about some of the things" for n in range(40)], ["rouge_l", "chrf"]),
        ([f"code {n}" for n in range(40)], ["exact_match", "chrf"]),
        ([json.dumps({"amount": n}) for n in range(40)], ["json_object"]),
    ],
)
def test_written_answers_get_metrics_of_their_kind(tmp_path: Path, answers: list[str], metrics: list[str]) -> None:
    found = proposal(tmp_path, [{"text": f"text {n}", "answer": a} for n, a in enumerate(answers)])
    assert (found.task.choices, found.task.metrics) == (None, metrics)
    assert found.prompt.prompt_tuning_init_text == "Write the answer that belongs to the following text."


def test_columns_are_found_by_their_names_and_texts(tmp_path: Path) -> None:
    rows = [
        {
            "label": ["good", "bad"][n % 2],
            "n": n,
            "subject_line": f"it is about case {n}",
            "text": f"t{n}",
            "note": "same words here",
        }
        for n in range(30)
    ]
    found = proposal(tmp_path, rows)
    assert found.task.prompt == "Subject line: {subject_line}\nText: {text}\nLabel:"
    assert found.task.target == " {label}"
    found = proposal(tmp_path, rows, text=["note"], answer="subject_line")
    assert (found.task.prompt, found.task.target) == ("{note}\nSubject line:", " {subject_line}")


def test_identifiers_and_addresses_are_no_texts_and_are_noted(tmp_path: Path) -> None:
    rows = [
        {
            "uid": str(uuid.UUID(int=n * 0xABCDEF0123456789)),
            "mail": f"jane.roe.{n}@mail.example.com",
            "page": f"https://example.com/some/path/of/case-{n}",
            **row,
        }
        for n, row in enumerate(tickets(300))
    ]
    found = proposal(tmp_path, rows)
    assert found.task.prompt == "{body}\nQueue:"
    assert len(found.notes) == 1
    assert found.notes[0].startswith("these columns differ in every row, and do not look like texts")
    assert found.notes[0].endswith(": uid, mail, page, id; name them in new.text if it should")
    assert proposal(tmp_path, [*rows, *rows[:30]]).notes[0].startswith("rows that repeat another: 30;"), "of the body"


MAIL = "jane.roe.{}@mail.example.com"
COLUMNS: dict[str, Any] = {
    "id": lambda n: f"T{n}",
    "text": lambda n: f"please help me with case {n}",
    "queue": lambda n: ("billing", "shipping", "account")[n % 3],
    "language": lambda n: ("English", "German")[n % 2],
    "reply": lambda n: f"we will look at it in {n} days",
    "article": lambda n: f"article{n % 40}",
    "code": lambda n: f"code{n}",
    "customer_email": MAIL.format,
    "agent_email": lambda n: MAIL.format(n % 3),
    "created_at": lambda n: f"2026-05-{n % 28 + 1:02} 12:30:00",
    "closed": lambda n: f"2026-05-0{n % 2 + 1}",
    "day": lambda n: f"{n % 28 + 1:02}.05.2026",
    "sent": lambda n: f"Mon, {n % 28 + 1:02} Jun 2026 08:00:00 +0200",
    "unix": lambda n: 1717171717 + n,
    "phone": lambda n: f"+49 30 1234{n % 3}67",
    "page": lambda n: f"https://example.com/{n % 3}",
    "stars": lambda n: n % 5 + 1,
    "nothing": lambda n: None,
}


@pytest.mark.parametrize(
    ("columns", "answer"),
    [
        ("id text queue created_at", "queue"),
        ("text queue customer_email", "queue"),
        ("text queue agent_email closed day sent unix phone page", "queue"),
        ("queue text", "queue"),
        ("text stars unix", "stars"),
        ("text language reply", "reply"),
        ("text reply language", "language"),
        ("text article created_at id", "article"),
        ("text code created_at", "code"),
        ("text code nothing", "code"),
        ("text code", "code"),
    ],
)
def test_without_a_usual_name_the_answer_is_a_column_that_looks_like_one(
    tmp_path: Path, columns: str, answer: str
) -> None:
    """The last column was the answer, although it had times or addresses."""
    rows = [{name: COLUMNS[name](n) for name in columns.split()} for n in range(60)]
    found = proposal(tmp_path, rows)
    assert (found.answer, found.guessed) == (answer, True)
    assert found.texts[0] == "text"
    said = f"reads {', '.join(found.texts)} and writes {answer} (guessed, since it has no usual name; new.answer names"
    assert said in found.columns
    assert f"\n# Columns: the model {said}" in config_text(sized(tmp_path, rows), ModelConfig())


def test_a_named_answer_and_one_with_a_usual_name_are_not_guessed(tmp_path: Path) -> None:
    rows = [row | {"label": "ab"[n % 2], "created_at": f"2026-05-0{n % 9 + 1}"} for n, row in enumerate(tickets())]
    for found, answer in ((proposal(tmp_path, rows), "label"), (proposal(tmp_path, rows, answer="queue"), "queue")):
        assert (found.answer, found.guessed, found.columns) == (
            answer,
            False,
            f"the model reads body and writes {answer}",
        )
        assert "# Columns:" not in config_text(found, ModelConfig())


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("我昨天买的包裹到现在还没有收到{}", "王小明"),
        ("昨日注文した荷物がまだ届いていません{}", "山田太郎"),
        ("ฉันยังไม่ได้รับพัสดุที่สั่งซื้อเมื่อวานนี้{}", "สมชาย ใจดี"),
    ],
)
def test_texts_without_spaces_between_words_are_found_and_names_are_not(tmp_path: Path, text: str, name: str) -> None:
    rows = [{"customer": f"{name}{n % 7}", "request": text.format(n), "queue": "ab"[n % 2]} for n in range(40)]
    assert proposal(tmp_path, rows).task.prompt == "{request}\nQueue:"


@pytest.mark.parametrize("missing", [{"note": None}, {}])
def test_a_text_column_with_a_gap_is_noted(tmp_path: Path, missing: dict[str, Any]) -> None:
    rows = [row | ({"note": f"it is about case {n}"} if n != 7 else missing) for n, row in enumerate(tickets())]
    found = proposal(tmp_path, rows, answer="queue")
    assert found.task.prompt == "{body}\nQueue:"
    assert found.notes[0] == (
        f'column "note" looks like a text, but has no value in 1 of 60 rows, e.g. {tmp_path}/rows.jsonl:8, so the '
        "model does not read it; fill it in, or remove these rows"
    )


@pytest.mark.parametrize("name", ["body", "remark"])
def test_a_gap_in_the_main_text_is_an_error(tmp_path: Path, name: str) -> None:
    """A gap dropped a column with a usual name without a word, and any other column that was the only text."""
    rows = [{name: row["body"] if n else None, "queue": row["queue"]} for n, row in enumerate(tickets())]
    if name == "body":
        rows = [{"title": f"case {n}"} | row for n, row in enumerate(rows)]
    with pytest.raises(UserError) as caught:
        proposal(tmp_path, rows)
    assert str(caught.value) == (
        f'new.text: column "{name}" looks like a text, but has no value in 1 of 60 rows, e.g. {tmp_path}/rows.jsonl:1; '
        "fill it in, remove these rows, or name other columns in new.text"
    )
    if name == "body":
        assert proposal(tmp_path, rows, text=["title"]).task.prompt == "{title}\nQueue:"


@pytest.mark.parametrize(
    ("rows", "new", "message"),
    [
        ([], {}, "rows.jsonl"),
        (tickets(), {"answer": "queu"}, 'new.answer: no column "queu" (did you mean "queue"?)'),
        (tickets(), {"text": ["bdy"]}, 'new.text: no column "bdy" (did you mean "body"?)'),
        (tickets(), {"text": ["queue"]}, 'new.text: "queue" is the answer'),
        (tickets(queue="one"), {}, 'new.answer: column "queue" is the same in every row'),
        ([*tickets(), {"id": "x", "body": "a b c", "queue": " "}], {}, 'the answer, column "queue", is empty'),
        ([*tickets(), {"id": "x", "body": "a b c"}], {}, 'the answer, column "queue", is empty'),
        (
            [{"queue": q} for q in "ab" * 9],
            {},
            "new.text: no column with a text in every row except the answer, queue; add",
        ),
        ([{"n": n, "queue": str(n % 2)} for n in range(9)], {}, "except the answer, queue; name one of: n"),
        ([{"my {text}": f"a b c {n}", "queue": str(n % 2)} for n in range(9)], {}, "new.text: no template can name"),
        (tickets(), {"task": "../x"}, "new.task: expected letters"),
    ],
)
def test_what_cannot_be_a_task_is_one_line(
    tmp_path: Path, rows: list[dict[str, Any]], new: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        proposal(tmp_path, rows, **new)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("more", [{}, {"subject": None}])
def test_a_named_column_that_a_row_lacks_is_one_line(tmp_path: Path, more: dict[str, Any]) -> None:
    rows = tickets(40, subject="help") + tickets(1) + tickets(5, subject="help")
    rows[40] |= more
    said = r'rows\.jsonl:41: column "subject", named in new\.text, has no value; fill it in, or remove the row$'
    with pytest.raises(UserError, match=said):
        proposal(tmp_path, rows, text=["subject", "body"], answer="queue")


@pytest.mark.parametrize("seen", [1, 2])
def test_a_file_that_is_sorted_by_label_has_all_of_its_choices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: int
) -> None:
    rows = sorted(tickets(300), key=lambda row: row["queue"])
    monkeypatch.setattr(proposal_module, "LOOKED_AT", 60 + 100 * (seen - 1))
    found = proposal(tmp_path, rows)
    assert found.task.choices == "from_train"
    assert str(found.prompt.prompt_tuning_init_text).endswith(": account, billing or shipping.")
    (sorted_by,) = (note for note in found.notes if "sorted" in note)
    assert f"so the file seems sorted: {', '.join(['billing', 'shipping'][seen - 1 :])}; shuffle it" in sorted_by
    unsorted = proposal(tmp_path, tickets(300), output=str(tmp_path / "other.yaml"))
    assert not any("sorted" in note for note in unsorted.notes)
    with pytest.raises(UserError, match='column "queue" is the same in every row'):
        proposal(tmp_path, tickets(300, queue="one"))


def test_answers_of_which_the_first_rows_repeat_one_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proposal_module, "LOOKED_AT", 30)
    rows = [row | {"queue": "none" if n < 40 else f"code {n}"} for n, row in enumerate(tickets(300))]
    assert proposal(tmp_path, rows).task.choices is None


def test_characters_that_yaml_refuses_or_changes_are_read_back(tmp_path: Path) -> None:
    """Such as an apostrophe of cp1252 that was read as Latin-1."""
    odd = ["Can\x92t log in", "a\u2028b\x85c", "d\x7f\ufeffe\ufffff", "gr\u00fc\u00df \U0001f600 \U000e0041"]
    rows = [{"b\x92ody": f"please help me with case {n}", "queue": odd[n % 4]} for n in range(200)]
    (tmp_path / "data\x92").mkdir()
    found = sized(tmp_path, rows, data=write(tmp_path / "data\x92" / "rows.jsonl", rows))
    text = config_text(found, ModelConfig())
    tree = yaml.safe_load(text)
    assert tree["prompt"]["prompt_tuning_init_text"] == found.prompt.prompt_tuning_init_text
    assert all(label in tree["prompt"]["prompt_tuning_init_text"] for label in odd)
    assert (tree["task"]["prompt"], tree["task"]["train"]) == (found.task.prompt, found.task.train)
    assert "gr\u00fc\u00df \U0001f600" in text, "what a person can read stays readable"


def test_sizes_come_from_the_rows(tmp_path: Path) -> None:
    small = sized(tmp_path, tickets())
    assert (small.training.steps, small.training.batch_size, small.training.eval_every) == (60, 8, 20)
    assert small.task.max_length == 64
    large = sized(tmp_path, tickets(1200))
    assert 170 <= large.training.steps <= 190  # 3 passes over some 960 rows
    assert large.training.batch_size == 16
    long = sized(
        tmp_path, [t | {"body": "word " * 900} for t in tickets(300)] + [t | {"body": "w " * 1100} for t in tickets(3)]
    )
    assert (long.task.max_length, long.task.long_rows, long.training.batch_size) == (1024, "cut_prompt", 8)
    assert "have more than 1024 tokens" in long.notes[-1]
    written = sized(tmp_path, [{"text": f"t{n}", "answer": f"{'a ' * (n % 30)}{n}"} for n in range(300)])
    assert written.evaluation.max_new_tokens == 48  # 30 words and some room


def test_the_longest_row_may_be_in_any_split(tmp_path: Path) -> None:
    """The lengths were those of train alone, so that a long row of test ended `make new` with an error."""
    rows = tickets(300)
    held_out = load_task(proposal(tmp_path, rows).task).splits["test"][0].record["id"]
    long = [row | {"body": "word " * 400} if row["id"] == held_out else row for row in rows]
    assert sized(tmp_path, long).task.max_length == 512


def test_rows_fit_into_the_room_of_the_model(tmp_path: Path) -> None:
    found = proposal(tmp_path, [row | {"body": f"{'word ' * 600}{row['id']}"} for row in tickets(300)])
    fitted = fit_sizes(found, load_task(found.task), words_of, room=492)
    assert (fitted.task.max_length, fitted.task.long_rows) == (492, "cut_prompt")
    assert "300 of 300 counted rows have more than 492 tokens" not in fitted.notes[-1], "test rows are not all counted"
    assert "counted rows have more than 492 tokens: the beginning of their prompt is cut" in fitted.notes[-1]


def test_weak_data_are_said(tmp_path: Path) -> None:
    rows = [*tickets(), *tickets(3), {"id": "y", "body": "please help me with case 5", "queue": "rare"}]
    notes = proposal(tmp_path, rows).notes
    assert [n.split()[0] for n in notes] == ["64", "choices", "rows", "texts"], "the identifiers repeat too"
    assert "choices with fewer than 10 rows: rare (1)" in notes
    assert notes[2].startswith("rows that repeat another: 3;")
    assert notes[3].startswith("texts with several different answers: 1;")
    assert proposal(tmp_path, [row | {"id": "T"} for row in tickets(600)]).notes == []
    assert proposal(tmp_path, tickets(600)).task.max_rows == {}
    assert proposal(tmp_path, tickets(10_001)).task.max_rows == {"test": 1000}


def test_rows_in_two_forms_of_unicode_repeat(tmp_path: Path) -> None:
    body = "the café is closed"
    rows = [*tickets(), {"body": body, "queue": "account"}]
    rows += [{"body": unicodedata.normalize("NFD", body), "queue": queue} for queue in ("account", "billing")]
    notes = proposal(tmp_path, rows, text=["body"]).notes
    assert [note.split(";")[0] for note in notes[1:]] == [
        "rows that repeat another: 1",
        "texts with several different answers: 1",
    ]


@pytest.mark.parametrize("written", [False, True])
def test_the_config_is_what_was_found_and_parses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    rows = [{"text": f't "{n}": {{x}}', "answer": f"some words {n}"} for n in range(300)] if written else tickets(300)
    found = sized(tmp_path, rows)
    write_proposal(found, ModelConfig())
    monkeypatch.chdir(ROOT)
    settings = parse(load_recipe("prompt_tuning").main, ["--config", str(found.file)])
    assert settings["task"] == found.task
    assert settings["prompt"] == found.prompt
    assert settings["training"] == found.training
    assert settings["evaluation"].bootstrap_resamples == 1000
    assert not written or settings["evaluation"] == found.evaluation
    assert settings["run"] == found.run
    content = config_text(found, ModelConfig())
    assert all("#" in line for line in content.splitlines() if line.startswith("  max_length"))
    with pytest.raises(UserError, match=r"^new.output: .* exists; name another file, or move it away$"):
        proposal(tmp_path, rows)
