"""Faults that are planted in clean rows are found, with the rows that have them; clean rows are green."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from made_readiness import LABELS, PLAN, Made, Rows, clean_rows
from made_tasks import write
from softprompts.config.sections import TaskConfig
from softprompts.errors import UserError
from softprompts.readiness import overlap, rows, sensitive
from softprompts.readiness.findings import Finding, place_of
from softprompts.readiness.plan import read_plan
from softprompts.tasks.task import load_task, load_unmasked

import pytest

pytest.importorskip("presidio_analyzer", reason="needs the extra `readiness`")

MAIL = "jane.roe@example.com"
KEY = "AKIA" + "IOSFODNN7EXAMPLE"  # of AWS's documentation


class Checked:
    """The findings on some rows, by key."""

    def __init__(self, folder: Path, splits: Rows, plan: dict[str, Any], task: dict[str, Any]) -> None:
        """Write, load and check them."""
        made = Made(folder, folder, splits)
        made.write_plan(**plan)
        self.plan = read_plan(str(made.plan))
        settings = TaskConfig(**(made.settings["task"] | task))
        self.handling = settings.pii
        self.raw = load_unmasked(settings)
        self.task = load_task(settings) if settings.pii == "mask" else self.raw
        self.findings = {f.key: f for f in self._all()}

    def _all(self) -> list[Finding]:
        found = sensitive.personal_data(self.raw.splits, self.plan.time_column)
        secret = sensitive.secrets(self.raw.splits)
        return [
            rows.counts(self.task, "prompt_tuning"),
            rows.balance(self.task, self.plan.metric),
            rows.languages(self.task),
            *overlap.overlap_findings(self.task, self.raw, self.plan),
            *sensitive.sensitive_findings(self.plan, self.handling, found, secret),
        ]

    def not_green(self) -> dict[str, str]:
        return {key: f.status for key, f in self.findings.items() if f.status not in ("green", "unchecked")}


Check = Callable[..., Checked]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Return a function that plants faults in clean rows, and checks them."""

    def go(plant: Callable[[Rows], object] = lambda rows: None, task: Any = None, **plan: Any) -> Checked:
        splits = clean_rows()
        plant(splits)
        return Checked(tmp_path, splits, plan, dict(task or {}))

    return go


def test_clean_rows_are_green(check: Check) -> None:
    found = check()
    assert found.not_green() == {}
    assert {key for key, finding in found.findings.items() if finding.remedy} == {"authors", "time"}
    assert found.findings["authors"].status == found.findings["time"].status == "unchecked"


def test_rows_that_are_there_twice_in_train_are_counted(check: Check) -> None:
    found = check(lambda rows: rows["train"].extend(rows["train"][:6]))
    assert found.not_green() == {"duplicates": "amber"}
    facts = found.findings["duplicates"].facts
    assert (facts["rows"], facts["shares"]) == ({"train": 6}, {"train": 6 / 126})
    assert facts["first"][0].endswith("train.jsonl:121")


@pytest.mark.parametrize("split", ["validation", "test"])
def test_rows_that_are_there_twice_where_scores_are_made_are_counted(check: Check, split: str) -> None:
    found = check(lambda rows: rows[split].extend(rows[split][:3]))
    assert found.not_green() == {"duplicates": "amber"}
    assert found.findings["duplicates"].facts["rows"] == {split: 3}
    assert f"Rows of {split} that repeat another: 3 (" in found.findings["duplicates"].found


def test_places_name_no_folder_of_this_machine(check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = check(lambda rows: rows["train"].append(rows["train"][0]))
    assert found.findings["duplicates"].facts["first"] == ["train.jsonl:121"]
    embedded = load_task(TaskConfig(dataset="embedded:sentiment", prompt="{text}", target=" {label}"))
    assert place_of(embedded.splits["test"][0]) == "embedded:sentiment/test.jsonl:1"


def test_few_repeated_rows_of_train_are_said_but_green(check: Check) -> None:
    found = check(lambda rows: rows["train"].append(rows["train"][0]))
    assert found.not_green() == {}
    assert "Rows of train that repeat another: 1 (" in found.findings["duplicates"].found


def test_a_row_of_train_in_test_is_red_whatever_its_case_and_spaces(check: Check) -> None:
    def plant(rows: Rows) -> None:
        rows["test"][7] = rows["train"][3] | {"text": rows["train"][3]["text"].upper().replace(" ", "  ")}

    found = check(plant)
    assert {"leaked_rows": "red"}.items() <= found.not_green().items()
    assert "near_duplicates" not in found.not_green()
    split, row, other = found.findings["leaked_rows"].facts["first"][0]
    assert (split, row.rpartition("/")[2], other.rpartition("/")[2]) == ("test", "test.jsonl:8", "train.jsonl:4")


def test_texts_in_two_forms_of_unicode_are_the_same(check: Check) -> None:
    def plant(rows: Rows) -> None:
        rows["train"][3]["text"] += " café"
        rows["test"][7] = rows["train"][3] | {"text": unicodedata.normalize("NFD", rows["train"][3]["text"])}

    found = check(plant).findings["leaked_rows"]
    assert (found.status, found.facts["rows"]) == ("red", 1)


def test_a_changed_word_is_a_near_duplicate_and_many_are_red(check: Check) -> None:
    def plant(count: int) -> Callable[[Rows], None]:
        def go(rows: Rows) -> None:
            for n in range(count):
                words = rows["train"][n]["text"].split()
                rows["test"][n] = rows["train"][n] | {"text": " ".join([*words[:-1], f"{words[-1]}s"])}

        return go

    found = check(plant(3))
    assert found.not_green() == {"near_duplicates": "red"}
    table = found.findings["near_duplicates"].table
    assert [(row["row"].rpartition("/")[2], row["like"].rpartition("/")[2]) for row in table] == [
        (f"test.jsonl:{n}", f"train.jsonl:{n}") for n in (1, 2, 3)
    ]
    assert all(0.8 <= float(row["similarity"]) < 1 for row in table)


def test_the_words_of_the_template_make_no_near_duplicates(check: Check) -> None:
    long = (
        "Decide which queue this ticket belongs to, and answer with nothing else but its name, please. {text}\nQueue:"
    )
    assert check(task={"prompt": long}).not_green() == {}


def test_contradicting_labels_are_found_and_limit_the_score(check: Check) -> None:
    def plant(rows: Rows) -> None:
        for n in range(4):
            rows["train"][n + 20] = rows["train"][n] | {"label": LABELS[1 - n % 2]}
        rows["test"].append(rows["test"][0] | {"label": LABELS[1]})

    found = check(plant)
    assert found.findings["conflicts"].status == "red"
    facts = found.findings["conflicts"].facts
    assert (facts["inputs"], facts["rows"]) == (5, 5)
    assert facts["best_accuracy_on_test"] == 60 / 61


@pytest.mark.parametrize("both", [False, True])
def test_inputs_that_differ_in_case_limit_no_score(check: Check, both: bool) -> None:
    """A model can learn that "STOP" and "stop" have different labels."""

    def plant(rows: Rows) -> None:
        for n in range(0, 20, 2):
            rows["test"][n + 1] = {"text": rows["test"][n]["text"].upper(), "label": LABELS[1]}
        if both:
            rows["test"].append(rows["test"][0] | {"label": LABELS[1]})

    found = check(plant).findings["conflicts"]
    assert found.status == "amber"
    assert found.facts["best_accuracy_on_test"] == (60 / 61 if both else 1)
    assert ("No model can be right on more than" in found.found) == both
    assert f"{'Some' if both else 'All'} of them differ only in case" in found.found
    assert (found.facts["inputs"], found.facts["rows_of_exact_inputs"]) == (10, both)


@pytest.mark.parametrize(
    ("prompt", "value"),
    [
        ("{row[text]}", lambda row: {"text": row["text"], "label": row["label"]}),
        ("{row[0]}", lambda row: [row["text"], row["label"]]),
        ("{row:.60}", lambda row: f"{row['text']:60.60}{row['label']}"),
        ("{row!s:.60}", lambda row: f"{row['text']:60.60}{row['label']}"),
    ],
    ids=["a key", "an item", "a cut", "a cut after a conversion"],
)
def test_only_what_a_field_shows_is_compared(check: Check, prompt: str, value: Callable[[Any], Any]) -> None:
    """The column of the input also has the label, which the model does not read."""

    def plant(rows: Rows) -> None:
        rows["train"][20] = rows["train"][0] | {"label": LABELS[1]}
        rows["test"][7] = rows["train"][3] | {"label": LABELS[0]}
        for row in (row for found in rows.values() for row in found):
            row["row"] = value(row)

    found = check(plant, task={"prompt": f"{prompt}\nQueue:"}).findings
    assert found["conflicts"].facts["inputs"] == 2
    assert found["leaked_rows"].facts["first"][0][1].endswith("test.jsonl:8")


def test_written_answers_may_differ_but_a_person_should_look(check: Check) -> None:
    def plant(rows: Rows) -> None:
        rows["train"][20] = rows["train"][0] | {"label": "another answer"}

    found = check(plant, task={"choices": None, "metrics": ["exact_match"]})
    assert found.findings["conflicts"].status == "amber"


def test_personal_data_are_red_until_they_are_masked_or_covered(check: Check) -> None:
    def plant(rows: Rows) -> None:
        rows["train"][4]["text"] += f" write to {MAIL}"
        rows["test"][2]["text"] += f" write to {MAIL}"

    found = check(plant)
    assert found.not_green() == {"personal_data": "red"}
    finding = found.findings["personal_data"]
    assert "Rows with personal data: 2 (EMAIL_ADDRESS)" in finding.found
    assert [(r["split"], r["column"], r["first"][0].rpartition("/")[2]) for r in finding.facts["found"]] == [
        ("train", "text", "train.jsonl:5"),
        ("test", "text", "test.jsonl:3"),
    ]
    assert MAIL not in str(finding)
    assert check(plant, personal_data=["EMAIL_ADDRESS"]).findings["personal_data"].status == "amber"
    assert check(plant, personal_data=["IBAN_CODE"]).findings["personal_data"].status == "red"
    assert check(plant, task={"pii": "mask"}).findings["personal_data"].status == "green"
    assert check(plant, task={"pii": "refuse"}).findings["personal_data"].status == "red"
    nobody = {"legal_basis": "no personal data", "personal_data": ["EMAIL_ADDRESS"]}
    assert check(plant, **nobody).findings["personal_data"].status == "red"
    masked = check(plant, task={"pii": "mask"}, legal_basis="no personal data").findings["personal_data"]
    assert (masked.status, "masking is processing" in masked.remedy) == ("amber", True)


def test_times_are_no_personal_data(check: Check) -> None:
    def plant(rows: Rows) -> None:
        for begin, found in zip((1_717_000_000, 1_717_100_000, 1_717_200_000), rows.values(), strict=True):
            for n, row in enumerate(found):
                row |= {"sent": begin + 17 * n, "seen": str(begin + 19 * n), "order": 2_125_551_000 + n}

    assert check(plant, time_column="sent").not_green() == {}
    assert check(lambda rows: rows["train"][0].update(phone=2125551234)).not_green() == {"personal_data": "red"}


def test_the_column_of_times_is_not_searched(check: Check) -> None:
    def plant(rows: Rows) -> None:
        for month, found in enumerate(rows.values(), start=1):
            for n, row in enumerate(found):
                row["phone_log"] = 1_717_000_000 + 10_000 * month + n

    assert check(plant, time_column="phone_log").not_green() == {}


def test_a_kind_of_personal_data_that_nobody_finds_is_an_error(check: Check) -> None:
    found = check(personal_data=["EMAIL_ADRESS"])
    with pytest.raises(UserError, match=r'personal_data: unknown kind "EMAIL_ADRESS" \(did you mean "EMAIL_ADDRESS"'):
        sensitive.check_kinds(found.plan)


def test_secrets_are_red_and_not_repeated(check: Check) -> None:
    def plant(rows: Rows) -> None:
        rows["validation"][1]["text"] += f" the key is {KEY}"

    found = check(plant)
    assert found.not_green() == {"secrets": "red"}
    assert "AWS Access Key" in found.findings["secrets"].found
    assert KEY not in str(found.findings["secrets"])


@pytest.mark.parametrize(
    ("kind", "secret"),
    [
        ("GitHub Token", "github_pat_" + "11AABBCC0" * 9),
        ("Hugging Face Token", "hf_" + "AbCdEfGh" * 4),
        ("Google API Key", "AIza" + "SyA-b_C" * 5),
        ("Anthropic API Key", "sk-ant-" + "api03-AbC_" * 3),
        ("OpenAI Token", "sk-proj-" + "AbC_1-xyZ" * 3),
    ],
)
def test_keys_of_common_services_are_found(check: Check, kind: str, secret: str) -> None:
    found = check(lambda rows: rows["train"][1].update(text=f"use {secret}, please")).findings["secrets"]
    assert (found.status, [one["kind"] for one in found.facts["found"]]) == ("red", [kind])
    assert secret not in str(found)


@pytest.mark.parametrize(
    ("column", "text", "status"),
    [
        ("text", "password: hunter2", "amber"),
        ("text", "my Password is hunter2!", "amber"),
        ("text", "?user=ann&password=S3cr3t!pass", "amber"),
        ("password", "hunter2", "amber"),
        ("text", "I forgot my password: please help", "green"),
        ("text", "the secret: love conquers all", "green"),
        ("text", "password: <PASSWORD_1>", "green"),
    ],
)
def test_a_value_that_a_word_names_as_a_secret_is_for_a_person(
    check: Check, column: str, text: str, status: str
) -> None:
    found = check(lambda rows: rows["train"][1].update({column: text})).findings["secrets"]
    assert found.status == status
    assert "Passwords that no word such as password names are not found" in found.found


def test_a_column_named_after_somebody_is_an_error(check: Check) -> None:
    found = check(lambda rows: rows["test"][5].update({MAIL: "x"}))
    with pytest.raises(UserError, match=r"test\.jsonl:6: the name of column 3 holds personal data \(EMAIL_ADDRESS\)"):
        sensitive.check_names_of_columns(found.task.splits)


def test_an_author_in_train_and_test_is_red(check: Check) -> None:
    def plant(leak: bool) -> Callable[[Rows], None]:
        def go(rows: Rows) -> None:
            for split, found in rows.items():
                for n, row in enumerate(found):
                    row["customer"] = f"{split} {n % 9}"
            if leak:
                rows["test"][5]["customer"] = "train 3"

        return go

    assert check(plant(False), author_column="customer").not_green() == {}
    found = check(plant(True), author_column="customer")
    assert found.not_green() == {"authors": "red"}
    assert found.findings["authors"].facts["rows"] == {"validation": 0, "test": 1}
    assert "test.jsonl:6" in found.findings["authors"].found


@pytest.mark.parametrize(
    ("author", "status", "said"),
    [
        (
            lambda split, n: f" {'Train' if split == 'test' and n == 5 else split} {n % 9} ",
            "red",
            "1 rows of validation",
        ),
        (
            lambda split, n: "" if split == "test" else f"{split} {n}",
            "amber",
            "60 of 60 rows of test have no value there",
        ),
        (
            lambda split, n: " " if n < 2 else f"{split} {n}",
            "amber",
            "2 of 120 rows of train, 2 of 40 rows of validation",
        ),
        (lambda split, n: None if split == "train" and n == 0 else f"{split} {n}", "green", "No customer of train"),
        (
            lambda split, n: "José" if split == "train" else "Jose\u0301" if n < 2 else "Ann",
            "red",
            "4 rows of validation",
        ),
        (lambda split, n: ["ann", "bob"] if split == "train" else ["eve", "Ann"], "red", "100 rows of validation"),
        (lambda split, n: [f"{split} {n}", "eve"] if split == "test" else [split], "green", "No customer of train"),
        (
            lambda split, n: [split] if n else [],
            "amber",
            "1 of 40 rows of validation, 1 of 60 rows of test have no value",
        ),
        (lambda split, n: "N/A" if n < 2 else f"{split} {n}", "amber", "2 of 120 rows of train, 2 of 40 rows"),
        (lambda split, n: ("unknown", "anonymous", "-", "<NA>")[n % 4] if n else split, "amber", "119 of 120 rows"),
        (lambda split, n: 7.0 if split == "train" else 7 if n < 2 else 8, "red", "4 rows of validation"),
    ],
    ids=[
        "another spelling",
        "an empty split",
        "some cells with a space",
        "one cell of 120",
        "another form of Unicode",
        "lists",
        "lists without an author of train",
        "an empty list",
        "some cells with n/a",
        "words for nobody",
        "numbers of a column with gaps",
    ],
)
def test_authors_are_compared_whatever_their_spelling_and_gaps_are_said(
    check: Check, author: Callable[[str, int], Any], status: str, said: str
) -> None:
    def plant(rows: Rows) -> None:
        for split, found in rows.items():
            for n, row in enumerate(found):
                row["customer"] = author(split, n)

    found = check(plant, author_column="customer").findings["authors"]
    assert (found.status, said in found.found) == (status, True), found.found


def test_times_of_a_few_rows_prove_no_order(check: Check) -> None:
    def plant(rows: Rows) -> None:
        in_months(1, 2, 3)(rows)
        for row in rows["train"][6:]:
            row["sent"] = ""

    found = check(plant, time_column="sent").findings["time"]
    assert (found.status, found.facts["empty"]) == ("amber", {"train": 114, "validation": 0, "test": 0})
    assert "114 of 120 rows of train have no value there, and were not compared." in found.found


def test_texts_that_are_too_short_to_compare_are_counted(check: Check) -> None:
    def plant(short: int) -> Callable[[Rows], None]:
        def go(rows: Rows) -> None:
            for split, found in rows.items():
                for n, row in enumerate(found[:short]):
                    row["text"] = f"{split} {n}"

        return go

    few, many = (check(plant(short)).findings["near_duplicates"] for short in (10, 40))
    assert (few.status, few.facts["not_compared"]) == ("green", 20)
    assert "Rows with fewer than 20 characters were not compared: 20." in few.found
    assert (many.status, many.facts["not_compared"]) == ("amber", 80)


def test_train_rows_that_are_later_than_test_are_a_leak(check: Check) -> None:
    def plant(late: int) -> Callable[[Rows], None]:
        def go(rows: Rows) -> None:
            for month, found in enumerate(rows.values(), start=1):
                for row in found:
                    row["sent"] = f"2026-0{month}-15"
            for row in rows["train"][:late]:
                row["sent"] = "2026-03-15T08:00:01+00:00"

        return go

    assert check(plant(0), time_column="sent").not_green() == {}
    assert check(plant(1), time_column="sent").not_green() == {"time": "amber"}
    found = check(plant(3), time_column="sent")
    assert found.not_green() == {"time": "red"}
    assert [(one["split"], one["later"], one["late"]) for one in found.findings["time"].facts["order"]] == [
        ("train", "validation", 3),
        ("train", "test", 3),
        ("validation", "test", 0),
    ]


def in_months(*months: int) -> Callable[[Rows], None]:
    """Return a function that gives the rows of each split a date in its month."""

    def plant(rows: Rows) -> None:
        for month, found in zip(months, rows.values(), strict=True):
            for n, row in enumerate(found):
                row["sent"] = f"2026-0{month}-{1 + n % 28:02d}"

    return plant


@pytest.mark.parametrize(
    ("months", "status", "said"),
    [
        ((1, 3, 2), "red", "40 rows of validation (100.0 %) are later than the first row of test"),
        ((2, 1, 3), "amber", "120 rows of train (100.0 %) are later than the first row of validation"),
        ((1, 2, 3), "green", "Train ends before validation begins (2026-02-01), and that before test (2026-03-01)."),
    ],
    ids=["validation after test", "train after validation", "in order"],
)
def test_validation_has_its_place_in_time(check: Check, months: tuple[int, ...], status: str, said: str) -> None:
    found = check(in_months(*months), time_column="sent").findings["time"]
    assert (found.status, said in found.found) == (status, True)


def test_rows_of_one_day_have_no_known_order(check: Check) -> None:
    def plant(rows: Rows) -> None:
        for row in (row for found in rows.values() for row in found):
            row["sent"] = "2026-03-15"

    found = check(plant, time_column="sent").findings["time"]
    assert found.status == "amber"
    assert found.found.count("have the time of the first row of") == 3
    assert found.remedy == "Give the time of day in sent, or keep all rows of one time in one split."


def test_a_split_without_times_is_amber(check: Check) -> None:
    def plant(rows: Rows) -> None:
        in_months(1, 2, 3)(rows)
        for row in rows["validation"]:
            row["sent"] = ""

    found = check(plant, time_column="sent").findings["time"]
    assert (found.status, found.found) == ("amber", "No row of validation has a value in the column sent.")


@pytest.mark.parametrize(("sent", "wrong", "status"), [("last week", 1, "amber"), ("31.05.2026", 2, "red")])
def test_values_that_are_no_times_stop_no_other_check(check: Check, sent: str, wrong: int, status: str) -> None:
    def plant(rows: Rows) -> None:
        in_months(1, 2, 3)(rows)
        for row in rows["train"][:wrong]:
            row["sent"] = sent

    checked = check(plant, time_column="sent")
    found = checked.findings["time"]
    assert checked.not_green() == {"time": status}
    assert f"Values of sent that are no times: {wrong}, e.g. " in found.found
    assert "train.jsonl:1" in found.found
    assert found.facts["not_times"] == {"train": wrong, "validation": 0, "test": 0}
    assert "2026-05-31T12:30" in found.remedy
    assert "the first number may be the day or the month" in found.remedy
    assert sent not in found.found


@pytest.mark.parametrize(
    ("column", "values", "key"),
    [
        ("customer_id", lambda n: n, "authors"),
        ("userName", lambda n: f"u{n}", "authors"),
        ("e-mail", lambda n: f"nr{n}", "authors"),
        ("created_by", lambda n: "ann", "authors"),
        ("createdAt", lambda n: 1_717_000_000 + n, "time"),
        ("year", lambda n: 2000 + n, "time"),
        ("when", lambda n: f"2026-05-{1 + n % 28:02d}", "time"),
        ("when", lambda n: f"{1 + n % 28:02d}.05.2026", "time"),
    ],
)
def test_a_column_like_an_author_or_a_time_is_proposed(
    check: Check, column: str, values: Callable[[int], Any], key: str
) -> None:
    def plant(rows: Rows) -> None:
        for row, n in ((row, n) for found in rows.values() for n, row in enumerate(found)):
            row[column] = values(n)

    found = check(plant)
    assert found.not_green() == {key: "amber"}
    assert found.findings[key].facts["columns"] == [column]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("customer_type", lambda n: "private"),
        ("id", lambda n: n),
        ("order", lambda n: 1_717_000_000 + n),
        ("day", lambda n: "Monday"),
        ("version", lambda n: f"1.{n}"),
        ("label", lambda n: LABELS[n % 2]),
    ],
)
def test_another_column_is_not_proposed(check: Check, column: str, values: Callable[[int], Any]) -> None:
    def plant(rows: Rows) -> None:
        for row, n in ((row, n) for found in rows.values() for n, row in enumerate(found)):
            row[column] = values(n)

    found = check(plant).findings
    assert found["authors"].status == found["time"].status == "unchecked"


@pytest.mark.parametrize(
    ("times", "begin"),
    [
        ((2019, 2020, 2021), "2020-01-01"),
        (("2019", " 2020 ", "2021"), "2020-01-01"),
        ((2019.0, 2020.0, 2021.0), "2020-01-01"),  # a column with gaps
        ((20240131, 20240229, 20240531), "2024-02-29"),
        ((1.0e9, 1_717_113_600, 1_717_200_000.5), "2024-05-31"),
        (("1000000000", "1717113600", "1717200000.5"), "2024-05-31"),
    ],
)
def test_years_dates_and_seconds_are_times_as_numbers_and_as_texts(
    check: Check, times: tuple[Any, ...], begin: str
) -> None:
    def plant(rows: Rows) -> None:
        for time, found in zip(times, rows.values(), strict=True):
            for row in found:
                row["sent"] = time

    found = check(plant, time_column="sent").findings["time"]
    assert (found.status, f"Train ends before validation begins ({begin})" in found.found) == ("green", True)


@pytest.mark.parametrize("field", ["time_column", "author_column"])
def test_a_column_that_is_not_there_is_an_error_with_the_nearest(check: Check, field: str) -> None:
    with pytest.raises(UserError, match=rf'{field}: train has no column "labl" \(did you mean "label"\?\)'):
        check(**{field: "labl"})


def test_few_rows_are_said_and_very_few_are_red(check: Check) -> None:
    def cut(count: int) -> Callable[[Rows], None]:
        return lambda rows: rows.update({"train": rows["train"][:count]})

    assert check(cut(60)).not_green() == {"counts": "amber"}
    found = check(cut(8))
    assert found.findings["counts"].status == "red"
    assert rows.counts(found.task, "context_tuning").status == "green"
    small = check(lambda rows: rows.update({"validation": rows["validation"][:10]}))
    assert small.not_green() == {"counts": "amber"}


def test_labels_that_are_absent_rare_or_lopsided_are_said(check: Check) -> None:
    choices = {"choices": [" billing", " shipping", " account"]}
    absent = check(task=choices).findings["balance"]
    assert (absent.status, absent.facts["absent"], absent.facts["not_in_test"]) == ("red", ["account"], ["account"])

    def rare(rows: Rows) -> None:
        rows["train"][0]["label"] = rows["test"][0]["label"] = "account"

    assert check(rare, task=choices).findings["balance"].facts["rare"] == ["account"]

    def lopsided(rows: Rows) -> None:
        for row in (row for found in rows.values() for row in found[: len(found) * 4 // 5]):
            row["label"] = "billing"

    found = check(lopsided).findings["balance"]
    assert found.status == "amber"
    assert "macro_f1" in found.remedy
    both = {"metrics": ["accuracy", "macro_f1"]}
    assert check(lopsided, task=both).findings["balance"].status == "amber", "a listed metric is not yet the KPI"
    by_label = {"kpi": PLAN["kpi"] | {"metric": "macro_f1"}}
    assert check(lopsided, task=both, **by_label).findings["balance"].status == "green"


@pytest.mark.parametrize(("moved", "status"), [(20, "green"), (40, "amber")])
def test_splits_with_other_shares_of_labels_are_amber_if_chance_does_not_explain_it(
    moved: int, status: str, check: Check
) -> None:
    def shift(rows: Rows) -> None:
        for row in rows["test"][:moved]:
            row["label"] = "billing"

    found = check(shift).findings["balance"]
    assert found.status == status
    assert found.facts["shifts"]["test"]["shift"] == pytest.approx(moved / 2 / 60)
    assert (found.facts["shifts"]["test"]["p"] < 0.01) == (status == "amber")


def test_a_small_split_does_not_hide_the_shift_of_another(check: Check) -> None:
    def shift(rows: Rows) -> None:
        rows["validation"] = [row | {"label": LABELS[0]} for row in rows["validation"][:4]]
        for row in rows["test"][:40]:
            row["label"] = LABELS[0]

    found = check(shift).findings["balance"]
    few, many = found.facts["shifts"]["validation"], found.facts["shifts"]["test"]
    assert few["shift"] > many["shift"] > 0.1
    assert few["p"] > 0.01 > many["p"]
    assert (found.status, found.remedy) == (
        "amber", "Draw all splits from the same rows: test and train differ in shares of labels."
    )  # fmt: skip


GERMAN = "Guten Tag, ich habe meine Rechnung noch nicht bekommen und möchte wissen, wann das Paket endlich ankommt {}"


def test_a_language_that_train_lacks_is_amber(check: Check) -> None:
    def plant(*splits: str) -> Callable[[Rows], None]:
        def go(rows: Rows) -> None:
            for split in splits:
                for n, row in enumerate(rows[split][::3]):
                    row["text"] = GERMAN.format(f"{row['text']} {n}")

        return go

    found = check(plant("test")).findings["languages"]
    assert found.status == "amber"
    assert "Add rows in de to train" in found.remedy
    assert check(plant("train", "validation", "test")).findings["languages"].status == "green"


@pytest.mark.parametrize(("count", "status"), [(1, "green"), (2, "green"), (3, "amber")])
def test_one_or_two_rows_of_another_language_may_be_errors_of_the_identification(
    check: Check, count: int, status: str
) -> None:
    """Two rows are 5 % of validation, far above the share of a language that is present."""

    def plant(rows: Rows) -> None:
        for row in rows["validation"][:count]:
            row["text"] = GERMAN.format(row["text"])

    found = check(plant).findings["languages"]
    assert found.status == status
    assert found.facts["shares"]["validation"]["de"] == count / 40
    assert ("de" in found.found) == (status == "amber")


def test_a_split_of_one_label_is_an_error(tmp_path: Path) -> None:
    same = write(tmp_path / "t.jsonl", [{"text": f"row {n}", "label": "billing"} for n in range(5)])
    task = load_task(TaskConfig("{text}", " {label}", train=same, validation=same, test=same, choices="from_train"))
    with pytest.raises(UserError, match=r'^task\.train: all 5 rows have the target "billing": nothing can be learned'):
        rows.check_not_single(task)
