"""The recipe as a whole: its files, their schemas, what changes with the run, and what is kept and refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_readiness
from helpers import cli_in_process, run_recipe
from made_governance import LABELS, SIZES, Made, edit, made_rows
from made_readiness import clean_rows
from made_result import make_result
from made_tasks import write
from page_reader import assert_alone, read
from softprompts.errors import UserError
from softprompts.governance import record
from softprompts.governance.evidence import Evidence, read_readiness
from softprompts.governance.law import read_law
from softprompts.metrics.scoring import Interval
from softprompts.readiness import page
from softprompts.readiness.settings import read_recipe
from softprompts.tasks.task import load_task

import pytest
from jsonschema import Draft202012Validator

FILES = (*record.FILES, "SHA256SUMS")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def command(made: Made, home: Path | str, *more: str) -> list[str]:
    return ["governance", "--governance.run", str(home), "--governance.plan", str(made.plan), *more]


def written(made: Made, home: Path, **changes: Any) -> dict[str, Any]:
    """Write the record of a run, and return governance.json."""
    page = record.write_governance(made.asked(home, **changes))
    return json.loads((page.parent / "governance.json").read_text(encoding="utf-8"))


def contents(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text(encoding="utf-8") for name in (*FILES, "answers.yaml")}


def schema(name: str) -> Draft202012Validator:
    tree = json.loads((record.HERE / name).read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(tree)
    return Draft202012Validator(tree)


def test_one_command_writes_files_that_fit_their_schemas(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    home = made.run()
    code, said, errors = cli_in_process(command(made, home), capsys)
    assert (code, errors) == (0, [])
    folder = home / "governance"
    assert said.splitlines()[-1] == str(folder / "governance.html")
    assert {p.name for p in folder.iterdir()} == {*FILES, "answers.yaml"}
    found = {
        name: json.loads((folder / name).read_text(encoding="utf-8")) for name in ("governance.json", "croissant.json")
    }
    for name, tree in found.items():
        assert list(schema(name.replace(".json", ".schema.json")).iter_errors(tree)) == []
    for line in (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    tree = found["governance.json"]
    assert tree["run"]["result_sha256"] == hashlib.sha256((home / "result.json").read_bytes()).hexdigest()
    assert tree["open_questions"] == list(read_law().points)
    assert "no legal advice" in tree["notice"]
    assert f"{len(tree['open_questions'])} of {len(tree['open_questions'])} questions are open" in said


def test_the_schema_refuses_what_is_missing_or_of_another_kind(made: Made) -> None:
    tree = written(made, made.run())
    validator = schema("governance.schema.json")
    for key in tree:
        assert not validator.is_valid({k: v for k, v in tree.items() if k != key}), key
    assert not validator.is_valid(tree | {"more": 1})
    for change in ({"schema_version": 2}, {"notice": "legal advice"}, {"made": "today"}, {"duties": []}):
        assert not validator.is_valid(tree | change)
    with pytest.raises(AssertionError, match=r"governance\.json: "):
        record.check("governance.json", tree | {"duties": []})


def test_the_files_change_when_the_run_changes_and_only_then(made: Made) -> None:
    home = made.run()
    written(made, home)
    first = contents(home / "governance")
    again = written(made, home)
    assert {name for name, text in contents(home / "governance").items() if text != first[name]} <= {
        "governance.json",
        "SHA256SUMS",
    }, "only the time of the call is another"
    edit(home / "result.json", lambda tree: tree["metrics"]["accuracy"].update(value=0.751))
    later = written(made, home)
    after = contents(home / "governance")
    assert after["answers.yaml"] == first["answers.yaml"]
    assert all(after[name] != first[name] for name in ("governance.json", "governance.html", "model_card.md"))
    assert "75.1 %" in after["governance.html"]
    assert "75.1 %" in after["model_card.md"]
    assert later["run"]["version"] != again["run"]["version"]
    edit(home / "result.json", lambda tree: tree["data"].update(licence="CC0-1.0"))
    written(made, home)
    assert json.loads(contents(home / "governance")["croissant.json"])["license"] == "CC0-1.0"


def test_every_part_says_what_the_record_and_the_plan_know(made: Made) -> None:
    tree = written(made, made.run())
    known = {p["key"]: " ".join(p["known"]) for part in tree["parts"].values() for p in part["points"]}
    assert "Sort tickets" in known["provider"]
    assert "10 steps of 8 rows, with learning rate" in known["development"]
    assert "its result.json" in known["provider"] or "result.json" in known["provider"]
    assert f"train {SIZES['train']} rows, validation {SIZES['validation']} rows" in known["data"]
    assert "The files still have the rows of the run" in known["data"]
    assert "Legal basis, as in the plan: contract (Article 6(1) GDPR)." in known["purposes"]
    assert "Columns of the rows: text, label, language, customer, urgent." in known["subjects"]
    assert "accuracy on test: 75.0 %" in known["limits"]
    assert "The plan asks for accuracy of 90.0 % or more." in known["metrics"]
    assert "not reached" in known["metrics"]
    assert "The model chooses one of given answers: billing, shipping." in known["generates_content"]
    assert "80 scored rows" in known["erasure"]
    assert any("it was right in 75.0 of 100 cases" in line for line in tree["transparency_note"])
    assert known["interface"] == "", "only a person knows"


def test_no_text_of_a_row_is_in_the_files(made: Made) -> None:
    home = made.run()
    made.write_plan(author_column="customer")
    tree = written(made, home)
    assert tree["evaluation"]["columns"] == ["language", "urgent"]
    assert not any("ticket number" in text or "customer 1" in text for text in contents(home / "governance").values())
    none = written(made, home, groups=[])["evaluation"]
    assert (none["groups"], none["no_groups_because"]) == ([], "governance.groups names no column")


def test_no_fingerprint_of_a_row_that_was_left_out_is_in_the_files(made: Made) -> None:
    """A short text can be guessed from its fingerprint, and a digest of one fingerprint tells as much."""
    before, home, prints = made.run("before"), made.run(), ["ab" * 32, "cd" * 32]
    left_out = {"rows": 2, "fingerprints": prints}
    edit(home / "result.json", lambda tree: tree["data"]["splits"]["train"].update(without=left_out))
    found = written(made, home, before=str(before))
    assert found["data"]["splits"]["train"]["without"] == {"rows": 2}
    assert [c["now"] for c in found["changes"]["changes"] if c["kind"] == "data"] == ["2"]
    for text in contents(home / "governance").values():
        assert not any(one in text for one in prints)


def test_no_label_or_group_that_is_personal_data_is_in_the_files(made: Made) -> None:
    pytest.importorskip("presidio_analyzer", reason="needs the extra `readiness`")
    people = {"billing": "ada@example.org", "shipping": "bob@example.org"}
    for split, file in made.files.items():
        rows = [row | {"label": people[row["label"]], "agent": people[row["label"]]} for row in made_rows(split)]
        write(Path(file), rows)
    made.task = replace(made.task, choices=[f" {mail}" for mail in people.values()])
    home = made.run()
    found = written(made, home)
    assert "agent" in found["evaluation"]["columns"]
    for text in contents(home / "governance").values():
        assert not any(mail in text for mail in people.values())
    assert "<EMAIL_ADDRESS_1> 50.0 %" in json.dumps(found)


def test_the_page_stands_alone_and_has_every_part_and_question(made: Made) -> None:
    before, home = made.run("before"), made.run(seed=4)
    made.write_plan(goal="Sort <i>tickets</i>")
    tree = written(made, home, before=str(before))
    text = (home / "governance" / "governance.html").read_text(encoding="utf-8")
    assert_alone(text)
    assert "Sort &lt;i&gt;tickets&lt;/i&gt;" in text
    assert "Sort <i>" not in text
    ids = {values.get("id") for _, values in read(text).seen}
    assert {*tree["parts"], "duties", "compute", "evaluation", "changes", "sources"} <= ids
    assert {f"point-{key}" for key in read_law().points} | {f"duty-{d['key']}" for d in tree["duties"]} <= ids
    tables = read(text).tables
    assert ["run", "seed", "3", "4"] in tables["All changes"]
    assert ["this run", "accuracy", "75.0 %"] in [row[:3] for row in tables["Scores"]]
    assert len(tables["Sources"]) == 1 + len(tree["sources"])


def test_the_page_names_the_exemption_from_the_record_of_processing(made: Made) -> None:
    text = record.write_governance(made.asked(made.run())).read_text(encoding="utf-8")
    assert text.count("Article 30(5) exempts") == 3, "with the duty, its reference, and the part itself"


def test_answers_are_kept_and_taken(made: Made) -> None:
    home = made.run()
    written(made, home)
    answers = home / "governance" / "answers.yaml"
    text = answers.read_text(encoding="utf-8").replace("\ncontact:", "\ncontact: Ada, room 5 # mine")
    text = text.replace("\nai_act_role:", "\nai_act_role: provider").replace(
        "\ninteracts_with_people:", "\ninteracts_with_people: yes"
    )
    answers.write_text(text, encoding="utf-8")
    tree = written(made, home)
    assert answers.read_text(encoding="utf-8") == text
    assert not {"contact", "ai_act_role", "interacts_with_people"} & set(tree["open_questions"])
    assert tree["transparency_note"][-1] == "Questions and complaints: Ada, room 5"
    duties = {duty["key"]: duty["for_you"] for duty in tree["duties"]}
    assert (duties["interaction"], duties["public_text"], duties["marking"]) == ("yes", "no", "open")
    assert duties["gpai"] == "no", "by the compute"
    assert "Ada, room 5" in (home / "governance" / "governance.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("metrics", "scores", "said"),
    [
        (
            ["accuracy"],
            {"accuracy": 0.75},
            "In a test it was right in 75.0 of 100 cases (95 % interval 65.0 to 85.0, 80 ",
        ),
        (["accuracy"], {"accuracy": 1.0}, "In a test it was right in 100.0 of 100 cases (80 rows)."),
        (["chrf"], {"chrf": 0.627}, "[answer `quality`]"),
        (["policy_cost", "accuracy"], {"cost_score": 0.9, "accuracy": 0.5}, "[answer `quality`]"),
        (["gone.py", "exact_match"], {"exact_match": 0.75}, "In a test it was right in 75.0 of 100 cases"),
        (["gone.py"], {"accuracy": 0.75}, "[answer `quality`]"),
    ],
)
def test_users_are_told_how_often_it_is_right_only_by_a_share_of_right_answers(
    made: Made, metrics: list[str], scores: dict[str, float], said: str
) -> None:
    intervals = {n: Interval(v, v - 0.1 * (v < 1), v + 0.1 * (v < 1), 80) for n, v in scores.items()}
    home = made.run(metrics=intervals)
    edit(home / "result.json", lambda tree: tree["settings"]["task"].update(metrics=metrics))
    made.write_plan(kpi={"metric": next(iter(scores)), "target": 0.9, "measured": "once"})
    note = written(made, home)["transparency_note"]
    assert note[2].startswith(f"It makes mistakes. {said}")
    (home / "governance" / "answers.yaml").write_text("quality: It often finds the queue.\n", encoding="utf-8")
    told = written(made, home)["transparency_note"][2]
    assert told == f"{note[2].removesuffix(' [answer `quality`]')} It often finds the queue."


def test_the_state_of_a_duty_is_that_of_the_day(made: Made) -> None:
    states = {duty["key"]: duty["state"] for duty in written(made, made.run())["duties"]}
    assert (states["interaction"], states["high_risk_annex_i"]) == ("applies", "applies later")


@pytest.mark.parametrize(("answer", "basis"), [("yes", "no personal data"), ("no", "consent")])
def test_an_answer_that_contradicts_the_plan_is_refused(made: Made, answer: str, basis: str) -> None:
    home = made.run()
    made.write_plan(legal_basis=basis)
    written(made, home)
    (home / "governance" / "answers.yaml").write_text(f"personal_data: {answer}\n", encoding="utf-8")
    with pytest.raises(UserError, match=f'personal_data: {answer} contradicts the legal_basis "{basis}"'):
        written(made, home)


@pytest.mark.parametrize("evidence", ["masks", "readiness"])
def test_personal_data_that_were_found_contradict_a_plan_without_any(made: Made, evidence: str) -> None:
    made.write_plan(legal_basis="no personal data")
    splits = load_task(made.task).fingerprint()
    masked = {"EMAIL_ADDRESS": 9} if evidence == "masks" else {}
    home = made.run(
        data={"licence": "yours", "splits": {name: split | {"masked": masked} for name, split in splits.items()}}
    )
    if evidence == "readiness":
        finding = {"key": "personal_data", "title": "Personal data", "status": "red", "found": "Rows: 3."}
        checked = {"made": "", "status": "red", "data": splits, "findings": [finding]}
        (home.parent / "readiness.json").write_text(json.dumps(checked), encoding="utf-8")
    said = {
        "masks": "the run masked 27 values. Masking is processing (Article 4(2) GDPR) and needs a legal basis.",
        "readiness": "the checks of readiness found some. Their use needs a legal basis.",
    }
    for answer in (None, "yes", "no"):
        if answer:
            (home / "governance" / "answers.yaml").write_text(f"personal_data: {answer}\n", encoding="utf-8")
        points = {p["key"]: p for part in written(made, home)["parts"].values() for p in part["points"]}
        assert points["personal_data"]["answer"] == answer
        assert points["personal_data"]["known"][0] == (
            f"The plan says that there are no personal data, but {said[evidence]}"
        )


@pytest.mark.parametrize("name", record.FILES)
def test_a_file_that_a_person_changed_is_never_replaced(made: Made, name: str) -> None:
    home = made.run()
    written(made, home)
    before = contents(home / "governance")
    file = home / "governance" / name
    mine = before[name] + "mine"
    file.write_text(mine, encoding="utf-8")
    with pytest.raises(UserError, match=r"governance\.output_dir: .* was changed by hand, and would be overwritten"):
        written(made, home)
    assert contents(home / "governance") == before | {name: mine}
    file.unlink()
    written(made, home)
    assert name in {p.name for p in file.parent.iterdir()}


def test_a_file_of_somebody_else_is_never_replaced(made: Made, tmp_path: Path) -> None:
    home, folder = made.run(), tmp_path / "out"
    folder.mkdir()
    (folder / "model_card.md").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"model_card\.md exists and was not written by this recipe; name another"):
        written(made, home, output_dir=str(folder))
    assert [p.name for p in folder.iterdir()] == ["model_card.md"]
    with pytest.raises(UserError, match=r"is not a folder; name another one"):
        written(made, home, output_dir=str(folder / "model_card.md"))


DIGEST_OF_MINE = hashlib.sha256(b"mine").hexdigest()


@pytest.mark.parametrize(
    "sums",
    [
        f"{DIGEST_OF_MINE}  data.csv\n",
        f"{DIGEST_OF_MINE}  model_card.md\n",
        "".join(f"{DIGEST_OF_MINE}  {name}\n" for name in (*record.FILES, "data.csv")),
        "".join(f"{DIGEST_OF_MINE[:40]}  {name}\n" for name in record.FILES),
        "my notes\n",
        "",
    ],
)
def test_checksums_of_somebody_else_are_never_replaced(made: Made, tmp_path: Path, sums: str) -> None:
    """The user's own card has the right checksum there, which does not make it ours."""
    home, folder = made.run(), tmp_path / "out"
    folder.mkdir()
    (folder / "SHA256SUMS").write_text(sums, encoding="utf-8")
    (folder / "model_card.md").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"SHA256SUMS exists and was not written by this recipe; name another folder"):
        written(made, home, output_dir=str(folder))
    assert (folder / "SHA256SUMS").read_text(encoding="utf-8") == sums
    assert sorted(p.name for p in folder.iterdir()) == ["SHA256SUMS", "model_card.md"]


def test_a_process_killed_between_two_files_blocks_nothing(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    home = made.run()
    written(made, home)
    edit(home / "result.json", lambda tree: tree.update(seed=9))
    write, names = record.write_atomically, []

    def killed(path: Path, text: str) -> None:
        names.append(path.name)
        if path.name == "model_card.md":
            raise KeyboardInterrupt
        write(path, text)

    monkeypatch.setattr(record, "write_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        written(made, home)
    assert names == ["SHA256SUMS", "governance.json", "governance.html", "model_card.md"]
    monkeypatch.undo()
    assert written(made, home)["run"]["seed"] == 9
    assert len((home / "governance" / "SHA256SUMS").read_text(encoding="utf-8").splitlines()) == len(record.FILES)


def test_nothing_leaves_the_machine(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert written(made, made.run())["schema_version"] == 1


Break = Callable[[Path], object]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda home: shutil.rmtree(home), 'governance.run: no such folder: {home} (did you mean "{other}"?)'),
        (
            lambda home: (shutil.rmtree(home), home.write_text("")),
            'governance.run: is a file; name the folder of a run: {home} (did you mean "{other}"?)',
        ),
        (lambda home: (home / "result.json").unlink(), "governance.run: {home} has no result.json"),
        (
            lambda home: (home / "result.json").rename(home / "config.json"),
            "governance.run: the run in {home} is not finished: it has no result.json; finish it with --resume",
        ),
        (
            lambda home: (home / "result.json").rename(home / "compare.json"),
            "governance.run: {home} is a comparison of two models; name the folder of one run",
        ),
        (lambda home: (home / "result.json").write_text("{"), "{home}/result.json: is damaged: "),
        (lambda home: (home / "result.json").write_text("[" * 100_000), "{home}/result.json: is damaged"),
        (lambda home: (home / "result.json").write_bytes(b"\xff"), "{home}/result.json: is damaged: "),
        (
            lambda home: edit(home / "result.json", lambda tree: tree["settings"].update(task=[])),
            "{home}/result.json: is damaged, or not from a run: settings: task: [] is not of type 'object'",
        ),
        (
            lambda home: edit(home / "result.json", lambda tree: tree["training"].update(tokens="many")),
            "{home}/result.json: is damaged, or not from a run: training: tokens: 'many' is not of type 'integer'",
        ),
        (
            lambda home: edit(home / "result.json", lambda tree: tree["parameters"].update(total=10**400)),
            "{home}/result.json: is damaged, or not from a run: parameters: total: 1000",
        ),
        (
            lambda home: edit(
                home / "result.json", lambda tree: tree["settings"]["evaluation"].update(abstain_below="x")
            ),
            "settings: evaluation: abstain_below: 'x' is not valid under any of the given schemas",
        ),
        (
            lambda home: edit(home / "result.json", lambda tree: tree.update(schema_version=7)),
            "{home}/result.json: this record has schema version 7, but only 1 is known",
        ),
        (
            lambda home: edit(home / "result.json", lambda tree: tree.update(metrics={})),
            'kpi.metric: the run has no score "accuracy"',
        ),
    ],
)
def test_a_run_that_cannot_be_read_ends_with_2_and_one_line(
    made: Made, capsys: pytest.CaptureFixture[str], damage: Break, said: str
) -> None:
    other, home = made.run("ran"), made.run("run")
    damage(home)
    code, _, errors = cli_in_process(command(made, home), capsys)
    assert code == 2
    assert len(errors) == 1
    assert said.format(home=home, other=other) in errors[0]
    assert not (home / "governance").exists()


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"owner": None, "fallback": ""}, "missing or empty: owner, fallback"),
        ({"legal_basis": "consnt"}, 'legal_basis: unknown basis "consnt" (did you mean "consent"?)'),
        ({"kpi": {"metric": "acuracy", "target": 0.9, "measured": "x"}}, '"acuracy" (did you mean "accuracy"?)'),
    ],
)
def test_a_wrong_plan_ends_with_2_and_one_line(
    made: Made, capsys: pytest.CaptureFixture[str], plan: dict[str, Any], said: str
) -> None:
    home = made.run()
    made.write_plan(**plan)
    code, _, errors = cli_in_process(command(made, home), capsys)
    assert (code, len(errors)) == (2, 1)
    assert said in errors[0]
    assert not (home / "governance").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "governance.readiness: no such file: "),
        ("{}", "is damaged, or not from recipes/readiness.py"),
        ("other rows", "is about other rows than the run"),
    ],
)
def test_a_readiness_record_that_does_not_fit_is_refused_if_it_is_named(
    made: Made, content: str | None, said: str
) -> None:
    home = made.run()
    file = home.parent / "readiness.json"
    if content:
        splits = json.loads((home / "result.json").read_text(encoding="utf-8"))["data"]["splits"]
        splits["train"]["sha256"] = "0"
        file.write_text(json.dumps({"data": splits, "findings": []}) if content == "other rows" else content)
    with pytest.raises(UserError, match=said):
        written(made, home, readiness=str(file))
    assert written(made, home)["readiness"] is None, "one that is not named is left out, with the reason"


def test_a_readiness_record_of_the_same_rows_is_taken(made: Made) -> None:
    home = made.run()
    splits = json.loads((home / "result.json").read_text(encoding="utf-8"))["data"]["splits"]
    finding = {
        "key": "personal_data",
        "title": "Personal data",
        "status": "amber",
        "found": "2 rows with EMAIL_ADDRESS.",
    }
    tree = {"made": "2026-11-01T00:00:00", "status": "amber", "data": splits, "findings": [finding]}
    (home.parent / "readiness.json").write_text(json.dumps(tree), encoding="utf-8")
    found = written(made, home)
    assert found["readiness"]["findings"] == [finding]
    known = {p["key"]: " ".join(p["known"]) for part in found["parts"].values() for p in part["points"]}
    assert "2 rows with EMAIL_ADDRESS." in known["personal_data"]
    assert "amber, 0 of 1 points green." in known["data"]


@pytest.mark.parametrize(("kept", "was"), [({"accepted_status": "red"}, "red, "), ({}, "")])
def test_a_point_that_the_owner_accepted_says_so(made: Made, kept: dict[str, str], was: str) -> None:
    """Older records of readiness do not have the status that was accepted."""
    home, reason = made.run(), "They are tokens of a demo."
    splits = json.loads((home / "result.json").read_text(encoding="utf-8"))["data"]["splits"]
    finding = {"key": "secrets", "title": "Secrets", "status": "amber", "found": "2 rows.", "accepted": reason} | kept
    tree = {"status": "amber", "data": splits, "plan": {"owner": "Ada"}, "findings": [finding]}
    (home.parent / "readiness.json").write_text(json.dumps(tree), encoding="utf-8")
    found = written(made, home)
    known = {p["key"]: " ".join(p["known"]) for part in found["parts"].values() for p in part["points"]}
    said = f"2 rows. ({was}accepted by Ada: {reason})"
    assert f"amber: Secrets: {said}" in known["data"]
    assert f"Found by patterns in the rows: {said}" in known["personal_data"]
    assert said in (home / "governance" / "governance.html").read_text(encoding="utf-8")


def test_a_run_on_masked_rows_has_its_check(tmp_path: Path, tiny_model: Path) -> None:
    pytest.importorskip("presidio_analyzer", reason="needs the extra `readiness`")
    found = clean_rows()
    found["train"][0]["text"] += " write to jane.roe@example.com"
    checked = made_readiness.Made(tmp_path, tiny_model, found)
    checked.write_config(pii="mask")
    page.write_readiness(checked.asked())
    file = tmp_path / "runs" / "readiness.json"
    tree = json.loads(file.read_text(encoding="utf-8"))
    assert tree["data_of_run"]["train"]["masked"] == {"EMAIL_ADDRESS": 1}
    assert tree["data"]["train"]["sha256"] != tree["data_of_run"]["train"]["sha256"]
    task = load_task(read_recipe(str(checked.config)).task)
    result = make_result(data={"licence": "", "splits": task.fingerprint()})
    evidence = Evidence(tmp_path / "runs" / "run", result, "", [], "none", 0)
    kept, missing = read_readiness("governance.readiness", None, evidence)
    assert (kept and kept["status"], missing) == (tree["status"], "")


@pytest.mark.parametrize(
    ("recipe", "changes", "same"),
    [
        ("hard_prompt", {"sha256": "of the chosen prompts"}, True),
        ("hard_prompt", {"rows": 9}, False),
        ("context_tuning", {"sha256": "of the drawn rows", "rows": 16}, True),
        ("cpt", {"sha256": "of the drawn rows", "rows": 16}, True),
        ("prompt_tuning", {"sha256": "of other rows"}, False),
    ],
)
def test_rows_are_compared_as_far_as_the_record_of_a_recipe_tells(
    made: Made, recipe: str, changes: dict[str, Any], same: bool
) -> None:
    task = load_task(made.task)
    (made.folder / "runs").mkdir()
    checked = {"data": task.fingerprint(), "findings": []}
    (made.folder / "runs" / "readiness.json").write_text(json.dumps(checked), encoding="utf-8")
    splits = task.fingerprint()
    splits["train"] |= changes
    tree = written(made, made.run(recipe=recipe, data={"licence": "yours", "splits": splits}))
    assert (tree["readiness"] is not None) == same
    assert tree["data"]["changed_since_run"] == ([] if same else ["train"])
    (known,) = [" ".join(p["known"]) for part in tree["parts"].values() for p in part["points"] if p["key"] == "data"]
    assert ("by their SHA-256" in known) == (same and recipe != "hard_prompt")
    assert ("by their number" in known) == (same and recipe == "hard_prompt")
    assert ("that the run drew are not compared" in known) == (recipe in ("context_tuning", "cpt"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_rights_is_one_line(made: Made, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(UserError, match="Permission denied"):
        written(made, made.run(), output_dir=str(closed / "out"))


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_and_a_screen(made: Made, width: int, scheme: str) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    before, home = made.run("before"), made.run(seed=4)
    written(made, home, before=str(before))
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
        said: list[str] = []
        view.on("console", lambda message: said.append(message.text))
        view.goto((home / "governance" / "governance.html").as_uri())
        assert view.evaluate("document.documentElement.scrollWidth") <= width
        ground = view.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
        assert said == []
        browser.close()


@pytest.mark.slow
def test_a_run_that_is_trained_and_the_command_as_a_process(made: Made, tiny_model: Path) -> None:
    home = made.folder / "runs" / "trained"
    task = made.task
    settings = {
        "model.name_or_path": tiny_model,
        **{f"task.{split}": getattr(task, split) for split in SIZES},
        "task.prompt": task.prompt,
        "task.target": task.target,
        "task.choices": f"[' {LABELS[0]}', ' {LABELS[1]}']",
        "task.metrics": "[accuracy]",
        "prompt.num_virtual_tokens": 5,
        "prompt.prompt_tuning_init": "RANDOM",
        "training.steps": 3,
        "training.warmup_steps": 0,
        "training.eval_every": 3,
        "training.batch_size": 4,
        "run.output_dir": home,
    }
    trained = run_recipe(["recipes/prompt_tuning.py", *(str(w) for k, v in settings.items() for w in (f"--{k}", v))])
    assert trained.returncode == 0, trained.stderr
    done = run_recipe(["recipes/governance.py", *command(made, home)[1:]])
    assert done.returncode == 0, done.stderr
    tree = json.loads((home / "governance" / "governance.json").read_text(encoding="utf-8"))
    result = json.loads((home / "result.json").read_text(encoding="utf-8"))
    parameters, tokens = result["parameters"], result["training"]["tokens"] + 3 * 4 * 5
    assert tree["compute"]["flop"] == (4 * parameters["total"] + 2 * parameters["trainable"]) * tokens
    assert tree["evaluation"]["columns"] == ["language", "customer", "urgent"]
    assert tree["evaluation"]["no_groups_because"] == ""
