"""The log of a split: means, differences, and invalid lines."""

from __future__ import annotations

import gzip
import json
import runpy
from pathlib import Path

from helpers import ROOT, error_lines
from softprompts.errors import UserError
from softprompts.metrics.sequential import largest_e_of_rows, neighbours
from softprompts.metrics.significance import LEVEL
from softprompts.reports.outcomes import compare_outcomes

import numpy
import pandas
import pytest


def write(path: Path, rows: list[tuple[str, str | None, float]]) -> str:
    """Write a log with an answer and an outcome for each of (adapter, user, outcome)."""
    lines = []
    for number, (adapter, user, value) in enumerate(rows):
        known = {"id": f"id{number}", "split": "s", "adapter": adapter}
        lines += [known | {"user": user, "seconds": 1.0}, known | {"outcome": 1 - value}, known | {"outcome": value}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_a_difference_is_found_and_its_figures_are_right(tmp_path: Path) -> None:
    rows = [("a", None, float(n % 10 < 3)) for n in range(200)] + [("b", None, float(n % 10 < 6)) for n in range(200)]
    lines = compare_outcomes(write(tmp_path / "log", rows), 2000)
    assert lines[:3] == [
        "s:",
        "  a: mean outcome 0.3000 of 200 answers, 200 users",
        "  b: mean outcome 0.6000 of 200 answers, 200 users",
    ], "the last outcome counts"
    assert lines[3].startswith("  b has a higher mean than a in outcome by 0.3000 (95 % interval 0.2")


def test_users_are_resampled_whole(tmp_path: Path) -> None:
    """Outcomes that are equal within each user are weaker evidence than the same number of users."""

    def interval(user: bool) -> float:
        rows = []
        for name, first in (("a", 2), ("b", 3)):
            rows += [(name, f"{name}{n // 25}" if user else None, float(n // 25 < first)) for n in range(200)]
        words = compare_outcomes(write(tmp_path / "log", rows), 2000)[-2].split()
        at = words.index("interval")
        return float(words[at + 3].strip(",")) - float(words[at + 1])

    assert interval(True) > 3 * interval(False)


def test_without_a_difference_few_are_shown(tmp_path: Path) -> None:
    generator = numpy.random.default_rng(1)
    shown = 0
    for _ in range(100):
        rows = [(name, None, float(value)) for name in "ab" for value in generator.integers(0, 2, 80)]
        shown += "has a higher mean" in compare_outcomes(write(tmp_path / "log", rows), 300)[-2]
    assert shown <= 12


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "outcomes.log: .*log: .*[Nn]o such file"),
        ("{", "line 1: malformed JSON: "),
        ("[1]", "line 1: expected an object with the texts id, split, adapter"),
        ('{"id": "x", "split": "s", "adapter": "a", "outcome": "yes"}', "line 1: outcome: expected a number"),
        (f'{{"id": "x", "split": "s", "adapter": "a", "outcome": {10**400}}}', "line 1: outcome: expected a number"),
        (f'{{"id": "x", "split": "s", "adapter": "a", "outcome": {"9" * 9000}}}', "line 1: outcome: expected a number"),
        ('{"id": "x", "split": "s", "adapter": "a", "outcome": 1}', "no answer with that id"),
        ('{"id": "x", "split": "s", "adapter": "a", "user": [1], "outcome": 1}', "line 1: user: expected a text"),
        ('{"id": "x", "split": "s", "adapter": "a"}', "no outcomes of two adapters of one split"),
        ("", "no outcomes of two adapters"),
    ],
)
def test_what_is_no_log_is_one_line(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "log"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=message):
        compare_outcomes(str(file), 100)


@pytest.mark.parametrize("kind", ["log", "log.gz"])
def test_a_log_that_an_editor_or_a_rotation_saved_is_read(tmp_path: Path, kind: str) -> None:
    rows = [("a", None, float(n % 10 < 3)) for n in range(40)] + [("b", None, float(n % 10 < 6)) for n in range(40)]
    whole = write(tmp_path / "whole", rows)
    first, rest = Path(whole).read_text(encoding="utf-8").split("\n", 1)
    data = f"\ufeff{first}\r\n\n \n{rest}\n".encode()
    (tmp_path / kind).write_bytes(gzip.compress(data) if kind.endswith(".gz") else data)
    assert compare_outcomes(str(tmp_path / kind), 200) == compare_outcomes(whole, 200)


def test_the_unfinished_line_of_a_killed_server_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = Path(write(tmp_path / "log", [(name, None, float(n % 2)) for name in "ab" for n in range(20)]))
    whole = compare_outcomes(str(log), 200)
    log.write_text(f'{log.read_text()}{{"id": "id9", "spl')
    assert compare_outcomes(str(log), 200) == whole
    assert "line 121: left out, because it is not finished" in caplog.text
    log.write_text(f"{log.read_text()}\n{{}}\n")
    with pytest.raises(UserError, match="line 121: malformed JSON: "):
        compare_outcomes(str(log), 200)


def test_the_recipe_reads_a_log_without_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = write(tmp_path / "log", [(name, None, float(n % 2)) for name in "ab" for n in range(20)])
    command = ["recipes/compare.py", "--outcomes.log", log]
    monkeypatch.setattr("sys.argv", command)
    runpy.run_path(str(ROOT / command[0]), run_name="__main__")
    assert "no difference shown in outcome between a and b" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", [*command, "--outcomes.sample", "3"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / command[0]), run_name="__main__")
    assert stopped.value.code == 2
    assert len(error_lines(capsys.readouterr().err)) == 1


def test_a_csv_of_variants_is_read(tmp_path: Path) -> None:
    file = tmp_path / "week.csv"
    rows = [f"{'ab'[n % 2]},{int(n % 20 < (6 if n % 2 else 14))},u{n}" for n in range(400)]
    file.write_text("\ufeffvariant,outcome,user\n" + "\n".join(rows) + "\n", encoding="utf-8")
    lines = compare_outcomes(str(file), 200)
    assert lines[0] == "week:"
    assert "a has a higher mean than b in outcome by 0.4" in lines[3]
    assert lines[4].startswith("  whenever you look: a difference of a and b is shown (largest e-value ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("varient,outcome\na,1\n", r'has no column variant \(did you mean "varient"\?\)'),
        (
            "variant,outcome\na,1\nb,yes\n",
            r"log.csv:3: expected a variant and a number as outcome, found 'b' and 'yes'",
        ),
        ("variant,outcome\na,1\n,1\n", r"log.csv:3: expected a variant"),
        ("variant,outcome\na\n", r"log.csv:2: 1 fields, but the header names 2"),
        ("variant,outcome,User\na,1,x\n", r'log.csv has no column user; rename its column "User" to user'),
        ("variant,outcome,user_id\na,1,x\n", r'log.csv has no column user; rename its column "user_id" to user'),
        ("variant,outcome, user\na,1,x\n", r'log.csv has no column user; rename its column " user" to user'),
        ("variant,outcome\na,1" + "0" * 400 + "\n", r"log.csv:2: expected a variant and a number"),
        ("variant,outcome\na,nan\n", r"log.csv:2: expected a variant and a number"),
        ("variant,outcome\na,1\n" + "b" * 200_000 + ",?\n", r"log.csv:3: expected a variant and a number"),
        ("variant,outcome,user\na,1,x\nb,0,x\n", "from users of one each"),
        ("variant,outcome\na,1\na,0\n", "no outcomes of two adapters"),
    ],
)
def test_what_is_no_csv_of_variants_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "log.csv"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        compare_outcomes(str(file), 100)


def test_spaces_make_no_other_variant_and_a_table_may_be_packed(tmp_path: Path) -> None:
    text = "variant,outcome\n" + 'a,1\n" a",1\n"a ",0\nb,0\n' * 3
    (tmp_path / "plain.csv").write_text(text)
    lines = compare_outcomes(str(tmp_path / "plain.csv"), 100)
    assert lines[1] == "  a: mean outcome 0.6667 of 9 answers, 9 users"
    with gzip.open(tmp_path / "plain.csv.gz", "wt") as file:
        file.write(text)
    assert compare_outcomes(str(tmp_path / "plain.csv.gz"), 100)[1:] == lines[1:]


@pytest.mark.parametrize(("users", "shown"), [(1, False), (2, False), (3, False), (6, True)])
def test_a_few_users_show_no_difference(tmp_path: Path, users: int, shown: bool) -> None:
    """All resamples of one user are equal. The assignment of three and three has one of ten chances to be extreme."""
    rows = [(name, None, float(name == "a")) for name in "ab" for _ in range(users)]
    assert ("has a higher mean" in compare_outcomes(write(tmp_path / "log", rows), 2000)[3]) == shown


def test_a_user_of_two_variants_is_left_out(tmp_path: Path) -> None:
    rows = [("a", "x", 1.0), ("b", "x", 0.0), ("a", "y", 1.0), ("b", "z", 1.0)]
    lines = compare_outcomes(write(tmp_path / "log", rows), 100)
    assert lines[1:4] == [
        "  left out: users with outcomes of more than one variant: 1; their outcomes: 2",
        "  a: mean outcome 1.0000 of 1 answers, 1 users",
        "  b: mean outcome 1.0000 of 1 answers, 1 users",
    ]


def test_names_in_two_forms_of_unicode_are_one_user_and_one_variant(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    names = ["José", "Jose\u0301"]
    rows = [f"a,1,{names[0]}", f"b,0,{names[1]}", f"{names[0]},1,x", f"{names[1]},1,y", "b,1,z"]
    file.write_text("\n".join(["variant,outcome,user", *rows]) + "\n", encoding="utf-8")
    assert compare_outcomes(str(file), 50)[1:4] == [
        "  left out: users with outcomes of more than one variant: 1; their outcomes: 2",
        "  José: mean outcome 1.0000 of 2 answers, 2 users",
        "  b: mean outcome 1.0000 of 1 answers, 1 users",
    ]


def test_other_columns_about_users_are_no_users(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_text("variant,outcome,user_agent,users_online\n" + "a,1,x,5\nb,0,x,6\n" * 20)
    assert "20 answers, 20 users" in compare_outcomes(str(file), 50)[1]


def test_columns_that_may_name_the_users_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "log.csv"
    rows = "a,1,x,9\nb,0,y,8\n" * 20
    file.write_text("variant,outcome,customer,session_id\n" + rows)
    assert "20 answers, 20 users" in compare_outcomes(str(file), 50)[1]
    (said,) = caplog.messages
    assert said.startswith(f"outcomes.log: {file} has no column user, so each row counts as another user; if one")
    assert said.endswith("rename it to user: customer, session_id")
    caplog.clear()
    for header in ("variant,outcome,user,session_id\n" + rows, "variant,outcome\n" + "a,1\nb,0\n" * 20):
        file.write_text(header)
        compare_outcomes(str(file), 50)
    assert caplog.messages == []


@pytest.mark.parametrize("word", ["NULL", "NA", "<NA>", "#N/A", "\\N", "-", "NaT", "Unknown", " none "])
def test_a_word_for_no_user_is_no_user(tmp_path: Path, word: str) -> None:
    """Half of the rows had this user, and were left out as outcomes of a single user of two variants."""
    file = tmp_path / "log.csv"
    file.write_text("variant,outcome,user\na,1,u1\n" + f"b,0,{word}\n")
    with pytest.raises(UserError) as caught:
        compare_outcomes(str(file), 50)
    assert str(caught.value) == (
        f'outcomes.log: {file}:3: the user is "{word.strip()}"; leave the cell empty if the user is unknown'
    )


def test_numbers_are_variants_and_users_too(tmp_path: Path) -> None:
    """The variant 0 was refused, and the user 0 counted as a new one in each row."""
    table = pandas.DataFrame(
        {"variant": [0, 1] * 60, "outcome": [0.0, 1.0] * 60, "user": [n // 4 * 2 + n % 2 for n in range(120)]}
    )
    table.to_parquet(tmp_path / "log.parquet")
    lines = compare_outcomes(str(tmp_path / "log.parquet"), 100)
    assert lines[1:3] == [
        "  0: mean outcome 0.0000 of 60 answers, 30 users",
        "  1: mean outcome 1.0000 of 60 answers, 30 users",
    ]


def test_arrival_pairs_the_users_of_a_csv(tmp_path: Path) -> None:
    """The share rises with time for both variants, of which b has nine users of ten."""
    generator = numpy.random.default_rng(0)
    rows = [f"{'ba'[n % 10 == 0]},{int(generator.random() < 0.2 + 0.4 * n / 4000)}" for n in range(4000)]
    (tmp_path / "drift.csv").write_text("variant,outcome\n" + "\n".join(rows) + "\n")
    lines = compare_outcomes(str(tmp_path / "drift.csv"), 50)
    assert "a difference of a and b is not shown yet" in lines[-1]
    assert "of 400 pairs of users" in lines[-1]


def e_value(log: str) -> str:
    """Return the largest e-value in the lines of a log with two variants."""
    return compare_outcomes(log, 50)[-1].partition("largest e-value ")[2]


def test_a_user_who_crosses_later_changes_no_earlier_pair(tmp_path: Path) -> None:
    rows: list[tuple[str, str | None, float]] = [("ab"[n % 2], f"user {n}", float(n % 2 == 0)) for n in range(40)]
    before = e_value(write(tmp_path / "log", rows))
    crossed: list[tuple[str, str | None, float]] = [("b", f"user {n}", 1.0) for n in range(0, 20, 2)]
    lines = compare_outcomes(write(tmp_path / "log", rows + crossed), 50)
    assert lines[1] == "  left out: users with outcomes of more than one variant: 10; their outcomes: 20"
    assert lines[-1].endswith(before)
    assert "of 20 pairs of users" in before


def test_a_correction_changes_the_mean_and_no_earlier_pair(tmp_path: Path) -> None:
    log = Path(write(tmp_path / "log", [("ab"[n % 2], None, 0.0) for n in range(40)]))
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(line for n, line in enumerate(lines) if n % 3 != 2))
    before = compare_outcomes(str(log), 50)
    log.write_text("".join(line for n, line in enumerate(lines) if n % 6 != 5))  # of the answers of a alone
    after = compare_outcomes(str(log), 50)
    assert before[1].startswith("  a: mean outcome 1.0000")
    assert after[1].startswith("  a: mean outcome 0.0000")
    assert before[-1] == after[-1]


def test_other_numbers_than_0_and_1_have_the_e_value_of_a_sign_test(tmp_path: Path) -> None:
    """Equal outcomes of a pair tell nothing. One large outcome does not decide."""
    rows: list[tuple[str, str | None, float]] = [("ab"[n % 2], None, 2.5 + n % 2) for n in range(40)]
    rows += [("ab"[n % 2], None, 7.0) for n in range(20)]
    lines = compare_outcomes(write(tmp_path / "log", rows), 100)
    assert "a difference of a and b is shown (largest e-value " in lines[-1]
    assert lines[-1].endswith("of a sign test of 20 pairs of users with unequal outcomes; 20 shows one)")
    generator = numpy.random.default_rng(0)
    same = [("ab"[n % 2], None, float(value)) for n, value in enumerate(generator.exponential(size=200))]
    assert "a difference of a and b is not shown yet" in compare_outcomes(write(tmp_path / "log", same), 100)[-1]


@pytest.mark.parametrize("delta", [0.0, 1.0])
def test_a_sign_test_of_neighbours_rarely_shows_a_difference_that_is_not_there(delta: float) -> None:
    """Outcomes rise with time in both variants."""
    generator = numpy.random.default_rng(5)
    shown = 0
    for _ in range(100):
        second = generator.random(400) < 0.3
        values = generator.exponential(size=400) + numpy.linspace(0, 0.5, 400) + delta * second
        pairs = neighbours(zip(second.tolist(), values.tolist(), strict=True))
        shown += largest_e_of_rows(one > other for one, other in pairs) >= 1 / LEVEL
    assert shown >= 95 if delta else shown <= 8
