"""Metrics that the targets themselves do not satisfy, and modules that are not metrics."""

from __future__ import annotations

from pathlib import Path

from made_tasks import CUSTOM
from softprompts.errors import UserError
from softprompts.metrics.scoring import check_reach, load_metrics

import pytest


def rows_of(*targets: str) -> list[tuple[str, str]]:
    return [(f"t:{n}", f" {target}") for n, target in enumerate(targets, start=1)]


CHINESE = "今天天气很好我们一起去公园散步吧然后回家吃晚饭看电视休息睡觉明天再见"
ENGLISH = "the cat sat on a mat near the door"


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("bleu", [CHINESE, CHINESE[::-1]]),
        ("bleu", ["yes", "no"]),  # no four words anywhere
        ("rouge_l", ["!!!", "👍"]),
        ("final_number", ["none", "many"]),
        ("json_object", ["yes", '{"a": 1, "a": 2}']),
    ],
)
def test_a16_a_metric_that_no_target_reaches_is_refused(name: str, targets: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        check_reach([name], None, rows_of(*targets))
    assert str(caught.value).startswith(f'task.metrics: "{name}": every target of validation and test')
    assert "e.g. t:1: it cannot score such texts; use another" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "targets", "count", "first"),
    [
        ("bleu", [ENGLISH, CHINESE, ENGLISH], "1 of 3", 2),
        ("rouge_l", ["ok", "ok", "!!!", "👍"], "2 of 4", 3),
        ("final_number", ["it is 5", "many"], "1 of 2", 2),
        ("json_object", ['{"slots": {"a": 1}}', "no"], "1 of 2", 2),
    ],
)
def test_a16_targets_that_a_metric_cannot_reach_are_counted(
    name: str, targets: list[str], count: str, first: int
) -> None:
    line = check_reach([name], None, rows_of(*targets))[0]
    assert line.startswith(f'task.metrics: "{name}": {count} targets of validation and test')
    assert f"e.g. t:{first}:" in line


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("accuracy", ["a", "b"]),
        ("macro_f1", ["a", "a"]),
        ("bleu", ["yes", ENGLISH]),  # short rows are judged with the others
        ("chrf", [CHINESE, "👍", "a"]),
        ("rouge_l", [CHINESE, "مرحبا", "हिन्दी", "Привет", "สวัสดี"]),
        ("docstring_style", ["not a summary", "nor this"]),  # does not look at the targets
        ("json_object", ['{"intent": "x", "slots": {}}', '{"slots": {"a": 1}}']),
        ("label_f1", ["a, b", "none"]),
    ],
)
def test_a16_metrics_that_reach_their_targets_say_nothing(name: str, targets: list[str]) -> None:
    assert check_reach([name], None, rows_of(*targets)) == []


def test_a16_a_further_number_that_cannot_be_reached() -> None:
    (line,) = check_reach(["json_object"], {"required": ["b"]}, rows_of('{"slots": {"a": 1}}'))
    assert line.endswith("no prediction can reach 1 in valid_schema: the targets themselves get 0.000")


OWN = "sum(p == r {more} for p, r in zip(predictions, references)) / len(references)"


def own_metric(folder: Path, body: str, name: str = "own") -> str:
    file = folder / name / f"{name}.py"
    file.parent.mkdir()
    source = CUSTOM.replace(CUSTOM[CUSTOM.index("return {") :], body + "\n")
    file.write_text(source, encoding="utf-8")
    return str(file)


def test_a16_metrics_of_others_that_report_one_number(tmp_path: Path) -> None:
    latin = own_metric(tmp_path, f"return {{'latin': {OWN.format(more='and p.isascii() and len(p) > 0')}}}")
    with pytest.raises(UserError, match=r'"own": no target of validation and test gets another number than an empty'):
        check_reach([latin], None, rows_of(CHINESE, CHINESE))
    (line,) = check_reach([latin], None, rows_of(ENGLISH, CHINESE))
    assert "1 of 2 targets of validation and test get the number of an empty prediction, e.g. t:2" in line
    error_rate = own_metric(tmp_path, f"return {{'errors': 1 - {OWN.format(more='')}}}", "errors")
    with pytest.raises(UserError, match=r'"errors": right predictions get 0, empty ones 1, but more counts as better'):
        check_reach([error_rate], None, rows_of(ENGLISH, CHINESE))
    (line,) = check_reach(["exact_match", error_rate], None, rows_of(ENGLISH, CHINESE))
    assert "set reference_free = True if it does not read the targets" in line, "a further metric may be reported"
    several = own_metric(tmp_path, "return {'a': 0.0, 'b': 0.0}", "several")
    assert check_reach([several], None, rows_of(ENGLISH)) == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return {'own': 1 / 0}", '"own" fails on the targets: division by zero'),
        ("raise KeyError", '"own" fails on the targets: KeyError'),
        ("return {'own': [1.0]}", '"own" reports own as list, which is not a number'),
        ("return None", '"own" fails on the targets: '),
    ],
)
def test_own_metrics_that_fail_do_so_before_training(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        check_reach([own_metric(tmp_path, body)], None, rows_of("a"))
    assert str(caught.value).startswith(f"task.metrics: {message}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"def (", "SyntaxError: "),
        (b"x = 1\n", "it has no class derived from evaluate.Metric"),
        (b"raise KeyError('x')\n", "KeyError: 'x'"),
        (b"# caf\xe9\n", "UnicodeDecodeError: "),
    ],
)
def test_modules_that_are_no_metric_are_one_line(tmp_path: Path, source: bytes, message: str) -> None:
    path = tmp_path / "own.py"
    path.write_bytes(source)
    with pytest.raises(UserError) as caught:
        load_metrics([str(path)])
    assert str(caught.value).startswith(f'task.metrics: cannot load "{path}": {message}')
    assert "\n" not in str(caught.value)


def test_two_metrics_of_one_name_are_refused(tmp_path: Path) -> None:
    """One would replace the other without a warning."""
    with pytest.raises(UserError, match=r'^task\.metrics: two metrics are named "accuracy"'):
        load_metrics(["accuracy", own_metric(tmp_path, "return {'x': 1.0}", "accuracy")])


def test_b13_a_metric_of_ours_needs_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_cache(_: str) -> None:
        raise FileNotFoundError(2, "No such file or directory", "/proc/nowhere")

    monkeypatch.setattr("evaluate.load", no_cache)
    assert list(load_metrics(["accuracy"])) == ["accuracy"]


def test_b13_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_cache(_: str) -> None:
        raise PermissionError(13, "Permission denied", "/proc/nowhere")

    monkeypatch.setattr("evaluate.load", no_cache)
    file = tmp_path / "m.py"
    file.touch()
    with pytest.raises(UserError) as caught:
        load_metrics([str(file)])
    said = f'task.metrics: cannot load "{file}": /proc/nowhere: Permission denied; set HF_HOME'
    assert str(caught.value).startswith(said)
