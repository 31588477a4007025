"""The whole recipe: exit codes, the page and its JSON, and no user's file is replaced."""

from __future__ import annotations

import json
import re
import shutil
import socket
from pathlib import Path
from typing import Any

from helpers import cli_in_process, run_recipe
from made_readiness import LABELS, PLAN, Made, clean_rows, own_metric
from made_tasks import write
from page_reader import assert_alone, read
from softprompts.config import tools
from softprompts.data import tables
from softprompts.errors import UserError
from softprompts.readiness import page
from softprompts.readiness.settings import read_recipe
from softprompts.tasks.task import load_task

import pytest

pytest.importorskip("presidio_analyzer", reason="needs the extra `readiness`")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MAIL = "jane.roe@example.com"


@pytest.fixture(autouse=True)
def _rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page.worth, "measure_rate", lambda _: 1e11)


@pytest.fixture
def made(tmp_path: Path, tiny_model: Path) -> Made:
    return Made(tmp_path, tiny_model)


def command(made: Made, *more: str) -> list[str]:
    return ["readiness", "--readiness.config", str(made.config), "--readiness.plan", str(made.plan), *more]


def test_clean_data_end_with_0_and_red_with_1(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    made.write_baseline(0.6)
    code, said, _ = cli_in_process(command(made), capsys)
    assert (code, said.splitlines()[-1][:6]) == (0, "green;")
    record = json.loads((made.folder / "runs" / "readiness.json").read_text(encoding="utf-8"))
    assert (record["status"], record["plan"]["owner"], record["method"]) == ("green", "Ada", "prompt_tuning")
    assert {f["key"] for f in record["findings"] if f["status"] != "green"} == {"authors", "time"}
    assert {f["status"] for f in record["findings"]} == {"green", "unchecked"}
    shown = (made.folder / "runs" / "readiness.html").read_text(encoding="utf-8")
    assert "0 red, 0 amber, 14 green, 2 not checked" in shown
    assert shown.count("– not checked") == 2
    rows = clean_rows()
    rows["test"][0] = rows["train"][0]
    write(made.folder / "test.jsonl", rows["test"])
    code, said, _ = cli_in_process(command(made), capsys)
    assert code == 1
    assert said.startswith("red: The same rows in several splits: Rows with an input of an earlier split: 1 of test.")


def test_amber_alone_ends_with_0(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = cli_in_process(command(made), capsys)
    assert code == 0
    assert [line.partition(":")[0] for line in said.splitlines()[:-1]] == ["amber"]


def test_the_page_stands_alone_and_shows_every_finding(made: Made) -> None:
    rows = clean_rows()
    rows["test"][0] = rows["train"][0]
    rows["train"][5]["text"] += f" <b>mail</b> {MAIL}"
    for split, found in rows.items():
        write(made.folder / f"{split}.jsonl", found)
    made.write_plan(goal="Sort <i>tickets</i>")
    assert page.write_readiness(made.asked(output=str(made.folder / "out"))) == "red"
    text = (made.folder / "out" / "readiness.html").read_text(encoding="utf-8")
    assert_alone(text)
    assert "Sort &lt;i&gt;tickets&lt;/i&gt;" in text
    assert MAIL not in text + (made.folder / "out" / "readiness.json").read_text(encoding="utf-8")
    record = json.loads((made.folder / "out" / "readiness.json").read_text(encoding="utf-8"))
    ids = {values.get("id") for _, values in read(text).seen}
    assert {finding["key"] for finding in record["findings"]} <= ids
    for finding in record["findings"]:
        assert (finding["status"] == "green") == (not finding["remedy"])
    tables = read(text).tables
    assert tables["The same rows in several splits"][1][0] == "test"
    assert ["KPI", "accuracy of 0.9 or more"] in tables["The plan"]


def test_a_red_point_that_the_owner_accepts_is_named_as_red(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    rows = clean_rows()
    rows["test"][0] = rows["train"][0]
    write(made.folder / "test.jsonl", rows["test"])
    made.write_plan(accepted={"leaked_rows": "A demo."})
    code, said, _ = cli_in_process(command(made), capsys)
    assert code == 1, "the reason is for no particular rows"
    (name,) = set(re.findall("write rows: (rows-[0-9a-f]{12}) below accepted.leaked_rows", said))
    made.write_plan(accepted={"leaked_rows": {"reason": "A demo.", "rows": name}})
    code, said, _ = cli_in_process(command(made), capsys)
    assert code == 0
    assert "1 of test." in said
    assert "It is red, accepted by Ada." in said
    page_text = (made.folder / "runs" / "readiness.html").read_text(encoding="utf-8")
    assert "<b>Red, accepted by Ada.</b> A demo." in page_text
    record = json.loads((made.folder / "runs" / "readiness.json").read_text(encoding="utf-8"))
    (point,) = (f for f in record["findings"] if f["key"] == "leaked_rows")
    assert (point["status"], point["accepted_status"]) == ("amber", "red")
    write(made.folder / "test.jsonl", [*rows["test"], rows["train"][1]])
    assert cli_in_process(command(made), capsys)[0] == 1, "other rows"


def test_labels_that_are_personal_data_are_masked(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    people = {"billing": MAIL, "shipping": "bob@example.org"}
    for split, found in clean_rows().items():
        write(made.folder / f"{split}.jsonl", [row | {"label": people[row["label"]]} for row in found])
    made.write_config(choices=[f" {mail}" for mail in people.values()])
    code, said, errors = cli_in_process(command(made), capsys)
    assert code == 1
    written = [(made.folder / "runs" / f"readiness.{kind}").read_text(encoding="utf-8") for kind in ("html", "json")]
    assert not any(mail in text for mail in people.values() for text in (said, *errors, *written))
    (labels,) = (f for f in json.loads(written[1])["findings"] if f["key"] == "balance")
    assert labels["facts"]["shares"]["train"] == {" <EMAIL_ADDRESS_1>": 0.5, " <EMAIL_ADDRESS_2>": 0.5}
    write(made.folder / "test.jsonl", [row | {"label": MAIL} for row in clean_rows()["test"]])
    code, _, errors = cli_in_process(command(made), capsys)
    assert code == 2
    assert 'have the target "<EMAIL_ADDRESS_1>"' in errors[-1]


def test_a_metric_in_the_plan_means_its_first_number(made: Made) -> None:
    made.write_config(metrics=[own_metric(made.folder)])
    made.write_plan(kpi=PLAN["kpi"] | {"metric": "lengths"})
    page.write_readiness(made.asked())
    record = json.loads((made.folder / "runs" / "readiness.json").read_text(encoding="utf-8"))
    assert record["plan"]["metric"] == "same"
    (finding,) = [f for f in record["findings"] if f["key"] == "test_rows"]
    assert "The target is 0.9 in same." in finding["found"]


def test_our_files_are_replaced_and_others_are_not(made: Made) -> None:
    folder = made.folder / "runs"
    page.write_readiness(made.asked())
    (folder / "readiness.html").write_text("<!-- softprompts recipes/readiness.py -->", encoding="utf-8")
    page.write_readiness(made.asked())
    assert "<h1>" in (folder / "readiness.html").read_text(encoding="utf-8")
    (folder / "readiness.json").write_text('{"mine": 1}', encoding="utf-8")
    with pytest.raises(UserError, match=r"^readiness.output: .*readiness.json exists and was not written by this"):
        page.write_readiness(made.asked())
    assert (folder / "readiness.json").read_text(encoding="utf-8") == '{"mine": 1}'


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"owner": None, "fallback": ""}, "missing or empty: owner, fallback"),
        ({"time_column": "sent"}, 'time_column: train has no column "sent"'),
        ({"kpi": {"metric": "f1", "target": 0.9, "measured": "x"}}, 'kpi.metric: the task has no metric "f1"'),
        ({"personal_data": ["NAME"]}, 'personal_data: unknown kind "NAME"'),
    ],
)
def test_a_wrong_plan_ends_with_2_and_one_line(
    made: Made, capsys: pytest.CaptureFixture[str], plan: dict[str, Any], said: str
) -> None:
    made.write_plan(**plan)
    code, _, errors = cli_in_process(command(made), capsys)
    assert code == 2
    assert said in errors[-1]
    assert not (made.folder / "runs").exists()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "train.jsonl: is empty"),
        ([{"text": f"row {n}", "label": LABELS[0]} for n in range(30)], "task.train: all 30 rows have the target"),
        ([{"text": f"row {n}", "label": LABELS[n % 2], MAIL: 1} for n in range(30)], "the name of column 3 holds"),
    ],
)
def test_rows_that_cannot_be_judged_end_with_2_and_one_line(
    made: Made, capsys: pytest.CaptureFixture[str], rows: list[dict[str, Any]], said: str
) -> None:
    write(made.folder / "train.jsonl", rows)
    code, _, errors = cli_in_process(command(made), capsys)
    assert code == 2
    assert said in errors[-1]
    assert MAIL not in " ".join(errors)


def test_without_its_packages_one_line_says_how_to_get_them(
    made: Made, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "READINESS_PACKAGES", ("no_such_package",))
    code, _, errors = cli_in_process(command(made), capsys)
    assert code == 2
    assert errors == ['error: readiness: needs more packages; install them: in a clone, pip install -e ".[readiness]"']


def test_nothing_leaves_the_machine(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert page.write_readiness(made.asked()) == "amber"


def test_the_rows_are_judged_as_they_are_in_the_files(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "LARGE", 0)
    monkeypatch.setattr(tables, "cache_folder", lambda: made.folder / "cache")
    rows = clean_rows()
    rows["train"][0]["text"] += f" write to {MAIL}"
    write(made.folder / "train.jsonl", rows["train"])
    made.write_config(pii="refuse")  # with which a run stops
    assert page.write_readiness(made.asked()) == "red"
    record = json.loads((made.folder / "runs" / "readiness.json").read_text(encoding="utf-8"))
    (finding,) = [f for f in record["findings"] if f["key"] == "personal_data"]
    assert (finding["facts"]["found"][0]["rows"], record["pii"]) == (1, "refuse")
    kept = [p for p in (made.folder / "cache").rglob("*") if p.is_file() and MAIL.encode() in p.read_bytes()]
    assert kept == [], "no copy without masks stays"


def test_rows_are_compared_as_a_run_reads_them(made: Made) -> None:
    """Rows that differ only in an e-mail address are equal after masking; authors are compared without masks."""
    rows = clean_rows()
    for split, found in rows.items():
        for n, row in enumerate(found):
            row["customer"] = f"{split}{n}@example.com"
    text = rows["train"][3]["text"]
    rows["train"][3]["text"] = f"{text} ask ann@example.com"
    rows["train"][4] |= {"text": f"{text} ask cem@example.com"}
    rows["test"][7] = rows["train"][3] | {"text": f"{text} ask bob@example.org", "customer": "test7@example.com"}
    for split, found in rows.items():
        write(made.folder / f"{split}.jsonl", found)
    made.write_config(pii="mask")
    made.write_plan(author_column="customer")
    assert page.write_readiness(made.asked()) == "red"
    record = json.loads((made.folder / "runs" / "readiness.json").read_text(encoding="utf-8"))
    found_by_key = {finding["key"]: finding for finding in record["findings"]}
    assert {key: found_by_key[key]["status"] for key in ("leaked_rows", "conflicts", "authors")} == {
        "leaked_rows": "red",
        "conflicts": "amber",
        "authors": "green",
    }
    assert found_by_key["leaked_rows"]["facts"]["rows"] == 1
    settings = read_recipe(str(made.config))
    measured = page.rows.measure(settings, load_task(settings.task))
    assert found_by_key["lengths"]["facts"]["test"]["longest"] == max(measured.lengths("test"))
    assert record["data"]["test"]["sha256"] != record["data_of_run"]["test"]["sha256"]


def test_a_finished_run_that_is_no_baseline_is_not_taken_for_one(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    path = made.write_baseline()
    rows = clean_rows()["test"]
    write(made.folder / "test.jsonl", [row | {"text": f"{row['text']} again"} for row in rows])
    code, _, errors = cli_in_process(command(made, "--readiness.run_baseline", "true"), capsys)
    assert code == 2
    assert errors[-1] == (
        f"error: readiness.run_baseline: {path.parent} has a finished run, move it away; {path} is not a baseline of "
        "this task: its test rows, or its few-shot examples, are others."
    )


@pytest.mark.slow
def test_the_hard_prompt_is_run_once_on_demand(made: Made) -> None:
    made.write_plan(shots=0)  # four, the default, do not fit into the 256 positions of the tiny model
    more = ("--readiness.run_baseline", "true")
    first = run_recipe(["recipes/readiness.py", *command(made)[1:], *more])
    assert first.returncode in (0, 1), first.stderr
    record = made.folder / "runs" / "hard_prompt" / "result.json"
    written = record.stat().st_mtime_ns
    found = json.loads((made.folder / "runs" / "readiness.json").read_text(encoding="utf-8"))
    (finding,) = [f for f in found["findings"] if f["key"] == "to_win"]
    assert finding["facts"]["record"] == str(record)
    assert run_recipe(["recipes/readiness.py", *command(made)[1:], *more]).returncode == first.returncode
    assert record.stat().st_mtime_ns == written


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_and_a_screen(made: Made, width: int, scheme: str) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    page.write_readiness(made.asked())
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
        said: list[str] = []
        view.on("console", lambda message: said.append(message.text))
        view.goto((made.folder / "runs" / "readiness.html").as_uri())
        assert view.evaluate("document.documentElement.scrollWidth") <= width
        ground = view.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
        assert said == []
        browser.close()
