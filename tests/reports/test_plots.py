"""Learning curves: a real picture, with or without metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from made_result import HISTORY, make_result
from softprompts.reports.plots import plot_curves

import pytest
from matplotlib import image, pyplot
from matplotlib.figure import Figure

LOSS_ONLY = [{k: v for k, v in entry.items() if k != "validation_accuracy"} for entry in HISTORY]


@pytest.mark.parametrize(
    ("history", "panels"), [(HISTORY, 2), (LOSS_ONLY, 1), (LOSS_ONLY[:1], 1), (HISTORY[:1], 2), (HISTORY[1:4], 1)]
)
def test_picture(tmp_path: Path, history: list[dict[str, float]], panels: int) -> None:
    """Also of a run that was stopped before its first update, or before its first validation."""
    path = tmp_path / "curves.png"
    plot_curves(make_result(training={"best_step": 0, "history": history}), path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    picture = image.imread(path)
    assert (picture.shape[1] > 1000) is (panels == 2)
    assert picture.std() > 0.05  # not blank
    assert pyplot.get_fignums() == []  # nothing is kept in memory


@pytest.mark.parametrize("baselines", [{}, {"majority_class": {}}, None])
def test_what_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, baselines: dict[str, Any] | None) -> None:
    figures: list[Figure] = []
    with monkeypatch.context() as patch:
        original = Figure.savefig
        patch.setattr(Figure, "savefig", lambda f, *a, **k: (figures.append(f), original(f, *a, **k)))
        plot_curves(make_result(**({} if baselines is None else {"baselines": baselines})), tmp_path / "curves.png")
    (figure,) = figures
    lines = [{str(a.get_label()): (list(a.get_xdata()), list(a.get_ydata())) for a in x.lines} for x in figure.axes]
    losses = [2.0 / n for n in range(1, 13)]
    steps, smooth = lines[0]["training, mean of 10 batches"]
    assert lines[0]["training, one batch"] == (list(range(1, 13)), losses)
    assert steps == list(range(1, 13))
    assert (smooth[0], smooth[1]) == (2.0, 1.5)
    assert smooth[11] == pytest.approx(sum(losses[2:]) / 10)
    assert lines[0]["validation"] == ([0, 12], [2.0, 0.4])
    assert lines[1]["accuracy, validation"] == ([0, 12], [0.5, 0.8])
    assert lines[1]["kept"][0] == [12, 12]
    majority = lines[1].get("accuracy, majority class (test)")
    assert (majority and majority[1]) == ([0.51, 0.51] if baselines is None else None)
