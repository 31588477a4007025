"""A sweep as a table and as a picture: the best first, those given up last."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from softprompts.reports.plots import plot_sweep
from softprompts.runs.record import Standing
from softprompts.runs.run import Run
from softprompts.sweeps.sweep import save_sweep, table

import pytest
from accelerate import Accelerator
from matplotlib import image, pyplot
from matplotlib.figure import Figure

NAN = float("nan")


def standing(value: float | None, by: str = "accuracy", step: int = 50, **values: Any) -> Standing:
    """Return a candidate that starts at 0.4 and goes straight to `value`; without one it was given up at once."""
    curve = [0.4, 0.4 if value is None else (0.4 + abs(value)) / 2, NAN if value is None else abs(value)]
    key = "validation_loss" if by == "loss" else f"validation_{by}"
    validations = [{"step": n * step // 2, "validation_loss": 1.0, key: v} for n, v in enumerate(curve)]
    named = {"training.learning_rate": 0.1, "run.seed": 0} | {k.replace("_", ".", 1): v for k, v in values.items()}
    return Standing(named, value, 0 if value is None else step, validations, None if value else "became nan", step, 100)


STANDINGS = [
    standing(0.5, training_learning_rate=0.001),
    standing(None, training_learning_rate=3.0),
    standing(0.875, training_learning_rate=0.01, run_seed=1),
    standing(0.75, training_learning_rate=0.1, step=100),
]


def drawn(standings: list[Standing], by: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> Figure:
    """Return the figure that `plot_sweep` saves."""
    figures: list[Figure] = []
    with monkeypatch.context() as patch:
        original = Figure.savefig
        patch.setattr(Figure, "savefig", lambda f, *a, **k: (figures.append(f), original(f, *a, **k)))
        plot_sweep(standings, by, path)
    (figure,) = figures
    return figure


def test_the_table_ranks_and_puts_those_given_up_last() -> None:
    assert table(STANDINGS, "accuracy").splitlines() == [
        "| learning_rate | run.seed | best validation accuracy | step | steps made |",
        "|---|---|---|---|---|",
        "| 0.01 | 1 | 0.8750 | 50 | 50 |",
        "| 0.1 | 0 | 0.7500 | 100 | 100 |",
        "| 0.001 | 0 | 0.5000 | 50 | 50 |",
        "| 3.0 | 0 | given up | 0 | 50 |",
    ]


def test_a_loss_is_shown_as_it_is_and_the_smallest_comes_first() -> None:
    standings = [standing(v, "loss", run_seed=n) for n, v in enumerate((-2.5, -0.25, None, -1.0))]
    rows = table(standings, "loss").splitlines()[2:]
    assert [row.split(" | ")[1:3] for row in rows] == [
        ["1", "0.2500"],
        ["3", "1.0000"],
        ["0", "2.5000"],
        ["2", "given up"],
    ]


def test_among_equals_the_smaller_loss_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standings = [standing(0.75, run_seed=seed) for seed in range(4)]
    for one, loss in zip(standings, (0.5, 0.25, 0.125, 0.25), strict=True):
        one.validations[-1]["validation_loss"] = loss
    rows = table(standings, "accuracy").splitlines()[2:]
    assert [row.split(" | ")[1] for row in rows] == ["2", "1", "3", "0"]
    right = drawn(standings, "accuracy", tmp_path / "sweep.png", monkeypatch).axes[1]
    names = [label.get_text() for label in right.get_yticklabels()]
    assert names == [f"learning_rate=0.1 seed={seed}" for seed in (2, 1, 3, 0)]


def test_a_value_of_zero_is_no_failure() -> None:
    standings = [standing(None, run_seed=0), standing(0.0, run_seed=1), standing(0.5, run_seed=2)]
    rows = table(standings, "accuracy").splitlines()[2:]
    assert [row.split(" | ")[1:3] for row in rows] == [["2", "0.5000"], ["1", "0.0000"], ["0", "given up"]]


def test_cells_keep_the_table_whole() -> None:
    """Texts may contain characters that end a cell or a row in Markdown."""
    standings = [standing(0.5, prompt_prompt_tuning_init_text="good | bad\nfilm"), standing(0.25)]
    keys = {"prompt.prompt_tuning_init_text": "plain"}
    standings[1] = Standing(standings[1].values | keys, 0.25, 5, standings[1].validations, None, 5, 100)
    lines = table(standings, "accuracy").splitlines()
    assert len(lines) == 4
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


@pytest.mark.parametrize(
    ("standings", "by"),
    [
        (STANDINGS, "accuracy"),
        ([standing(0.5, run_seed=n) for n in range(3)], "accuracy"),
        ([standing(-0.4, "loss")], "loss"),
        ([standing(-0.5, "loss"), standing(None, "loss", run_seed=1)], "loss"),
        ([standing(0.5 + n / 100, run_seed=n) for n in range(30)], "accuracy"),
    ],
    ids=["one given up", "all equal", "one alone", "one left", "thirty"],
)
def test_picture(standings: list[Standing], by: str, tmp_path: Path) -> None:
    path = tmp_path / "sweep.png"
    plot_sweep(standings, by, path)
    height, width = image.imread(path).shape[:2]
    assert 1200 < width < 2000
    assert 400 < height < 2000
    assert pyplot.get_fignums() == []  # nothing is kept in memory


def test_what_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left, right, below = drawn(STANDINGS, "accuracy", tmp_path / "sweep.png", monkeypatch).axes
    curves = {str(line.get_label()): list(line.get_ydata()) for line in left.lines}
    assert len(left.lines) == 4
    assert curves["kept"] == [0.4, pytest.approx(0.6375), 0.875]
    places = [(list(line.get_xdata()), list(line.get_ydata())) for line in right.lines]
    assert places == [([0.75, 0.5], [1, 2]), ([0.875], [0])]
    assert [label.get_text() for label in right.get_yticklabels()] == [
        "learning_rate=0.01 seed=1",
        "learning_rate=0.1 seed=0",
        "learning_rate=0.001 seed=0",
        "learning_rate=3.0 seed=0 (given up)",
    ]
    assert right.get_ylim()[0] > right.get_ylim()[1], "the best is on top"
    lines = [[float(y) for y in line.get_ydata()] for line in below.lines if len(line.get_xdata()) == 3]
    assert lines == [  # the rate and the seed in their order, the best validation to scale; the best is drawn last
        [0.0, 0.0, 0.0],
        [pytest.approx(2 / 3), 0.0, pytest.approx(2 / 3)],
        [pytest.approx(1 / 3), 1.0, 1.0],
    ]


def test_a_text_is_drawn_as_it_is_and_leaves_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two dollar signs would make a formula of it, and a wrong formula an error; a long one would crush the curves."""
    words = r"from $5 up to \frac$ " + "is it good or bad, in a word? " * 8
    standings = [standing(v, prompt_prompt_tuning_init_text=words) for v in (0.5, 0.75)]
    figure = drawn(standings, "accuracy", tmp_path / "sweep.png", monkeypatch)
    assert figure.axes[1].get_yticklabels()[0].get_text().startswith("learning_rate=0.1 seed=0 prompt_tuning_init_text")
    assert all(axis.get_position().width > 0.15 for axis in figure.axes)


def test_a_loss_is_drawn_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standings = [standing(-0.5, "loss"), standing(-0.25, "loss", run_seed=1)]
    left, right, _ = drawn(standings, "loss", tmp_path / "sweep.png", monkeypatch).axes
    assert [list(line.get_xdata()) for line in right.lines] == [[0.5], [0.25]]
    assert {str(line.get_label()): line.get_ydata()[-1] for line in left.lines}["kept"] == 0.25


def test_both_are_written_and_the_table_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run("sweep", {}, tmp_path, 0, Accelerator(cpu=True), time.perf_counter())
    save_sweep(run, STANDINGS, "accuracy")
    text = table(STANDINGS, "accuracy") + "\n"
    cost = "4 candidates made 250 steps, 62% of the 400 steps of a full grid\n"
    assert {p.name for p in tmp_path.iterdir()} == {"sweep.md", "sweep.png"}
    assert (tmp_path / "sweep.md").read_text(encoding="utf-8") == text
    assert capsys.readouterr().out == text + cost
