"""The benchmark's figures: the Pareto front by hand, marks equal to the records, both files of a drawing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.grid.settings import Benchmark
from benchmarks.report.claims import transfers
from benchmarks.report.figures import draw
from made_benchmark import METHODS, make_benchmark, records_of
from softprompts.methods.catalog import METHODS as CATALOG
from softprompts.reports.pages.figures import pareto_front
from softprompts.reports.pages.style import INK, OTHER, STYLES, Drawing, close, save_png, svg

import pytest
from matplotlib import image, pyplot
from matplotlib.container import ErrorbarContainer


@pytest.fixture
def drawn(tmp_path: Path) -> Iterator[tuple[Benchmark, dict[str, Drawing]]]:
    """Yield a benchmark in which LoRA lacks a seed, and its figures by name."""
    benchmark = make_benchmark(tmp_path, without=["lora/seed2"])
    drawings = draw(records_of(benchmark), "sentiment")
    yield benchmark, {d.name: d for d in drawings}
    close(drawings)
    assert pyplot.get_fignums() == []  # nothing is kept in memory


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([], []),
        ([(1, 1)], [0]),
        # A cheaper and better method is ahead of all; the last one costs more than the second and is not better.
        ([(3, 0.9), (1, 0.5), (2, 0.4), (2, 0.8), (4, 0.9)], [1, 3, 0]),
        ([(1, 0.5), (1, 0.7)], [1]),  # with equal cost, the better one
        ([(1, 0.5), (2, 0.5)], [0]),  # with equal score, the cheaper one
        ([(1, 0.5), (1, 0.5)], [0, 1]),  # equal methods are both on the front
    ],
)
def test_pareto_front(points: list[tuple[float, float]], front: list[int]) -> None:
    assert pareto_front(points) == front


def test_there_is_a_figure_of_each_kind(drawn: tuple[Benchmark, dict[str, Drawing]]) -> None:
    kinds = ("parameters", "seconds", "memory", "curves", "forgetting", "transfer")
    assert list(drawn[1]) == [f"sentiment_{kind}" for kind in kinds]


def test_scores_against_cost(drawn: tuple[Benchmark, dict[str, Drawing]]) -> None:
    axis = drawn[1]["sentiment_seconds"].figure.axes[0]
    points = {}
    for container in axis.containers:
        assert isinstance(container, ErrorbarContainer)
        (x,), (y,) = container.lines[0].get_data()
        points[str(container.get_label())] = (x, round(float(y), 6))
    assert points["hard prompt, 8-shot"] == (0, 50)
    assert points["prompt tuning"] == (421, 70)
    assert points["LoRA (2 of 3 seeds)"] == (275.5, 79.5)
    (front,) = [line for line in axis.lines if line.get_label() == "Pareto front"]
    # Hard prompts with examples, P-tuning, prefix tuning, LoRA, full fine-tuning, and on to the right.
    assert [round(float(y), 6) for y in front.get_ydata()] == [50, 68, 72, 79.5, 82, 82]
    assert axis.get_ylabel() == "accuracy, %"


def test_parameters_are_powers_of_ten_and_none_stands_left(drawn: tuple[Benchmark, dict[str, Drawing]]) -> None:
    axis = drawn[1]["sentiment_parameters"].figure.axes[0]
    drawn[1]["sentiment_parameters"].figure.canvas.draw()
    names = [t.get_text() for t in axis.get_xticklabels()]
    assert names == ["none", "10k", "100k", "1M", "10M", "100M"]


def test_curves_are_means_and_a_band(drawn: tuple[Benchmark, dict[str, Drawing]]) -> None:
    axis = drawn[1]["sentiment_curves"].figure.axes[0]
    curves = {str(line.get_label()): line for line in axis.lines}
    assert list(curves) == ["prompt tuning", "prefix tuning", "P-tuning", "LoRA (2 of 3 seeds)", "full fine-tuning"]
    assert list(curves["prompt tuning"].get_xdata()) == [0, 20, 40]
    assert [round(float(y), 6) for y in curves["prompt tuning"].get_ydata()] == [3.1, 2.75, 2.4]
    heights = axis.collections[0].get_paths()[0].vertices[:, 1]
    assert (round(heights.min(), 6), round(heights.max(), 6)) == (2.3, 3.2)


def test_a_run_that_stopped_early_ends_the_mean(tmp_path: Path) -> None:
    benchmark = make_benchmark(tmp_path)
    del benchmark.cells["lora"][1].result.training["history"][-1]
    drawings = draw(records_of(benchmark), "sentiment")
    (curves,) = [d for d in drawings if d.name == "sentiment_curves"]
    (line,) = [x for x in curves.figure.axes[0].lines if x.get_label() == "LoRA"]
    assert list(line.get_xdata()) == [0, 20]
    close(drawings)


def test_what_is_unlearnt_has_a_mark_a_seed(drawn: tuple[Benchmark, dict[str, Drawing]]) -> None:
    axis = drawn[1]["sentiment_forgetting"].figure.axes[0]
    assert [round(float(x), 6) for x in axis.lines[0].get_xdata()] == [0.2, 0.21, 0.22]
    assert len(axis.lines[3].get_xdata()) == 2


def test_each_method_has_a_colour_and_a_marker_of_its_own() -> None:
    assert set(STYLES) == {"few_shot", "zero_shot"} | (set(CATALOG) - {"hard_prompt"})
    for part in zip(*STYLES.values(), OTHER, strict=True):
        assert len(set(part)) == len(part)


def test_what_is_not_recorded_is_not_drawn(tmp_path: Path) -> None:
    trained = [m for m in METHODS if METHODS[m][1]]
    without = [f"{m}/seed0" for m in trained]
    assert draw(records_of(make_benchmark(tmp_path, seeds=1, without=without, probes=False)), "sentiment") == []
    drawings = draw(records_of(make_benchmark(tmp_path / "more", seeds=1, probes=False)), "sentiment")
    assert [d.name.rpartition("_")[2] for d in drawings] == ["parameters", "seconds", "memory", "curves"]
    close(drawings)


def test_svg_takes_the_page_s_colour_and_loads_nothing(drawn: tuple[Benchmark, dict[str, Drawing]]) -> None:
    elements = {name: svg(drawing) for name, drawing in drawn[1].items()}
    for element in elements.values():
        assert element.startswith('<svg role="img" ')
        assert "currentColor" in element
        assert INK not in element
        assert not re.search(r'(?:href|src)="(?!#)|url\((?!#)|<!DOCTYPE|<metadata', element)
        assert "font-family: inherit" in element
    assert "trained parameters</text>" in elements["sentiment_parameters"]
    ids = [set(re.findall(r'<clipPath id="([^"]+)"', element)) for element in elements.values()]
    assert len(set.union(*ids)) == sum(map(len, ids))  # one page holds them all
    assert svg(drawn[1]["sentiment_curves"]) == elements["sentiment_curves"]


def test_png(drawn: tuple[Benchmark, dict[str, Drawing]], tmp_path: Path) -> None:
    path = save_png(drawn[1]["sentiment_curves"], tmp_path)
    assert path.name == "sentiment_curves.png"
    picture = image.imread(path)
    assert picture.shape[:2] == (920, 1000)
    assert picture[0, 0].tolist() == [1, 1, 1, 1]
    assert picture.std() > 0.05  # not blank


def test_a_long_name_makes_a_picture_wider_and_is_not_cut(tmp_path: Path) -> None:
    benchmark = make_benchmark(tmp_path)
    benchmark.grid["methods"]["lora"]["label"] = "LoRA, whose name here is longer than the whole figure is wide"
    drawings = draw(records_of(benchmark), "sentiment")
    for drawing in drawings:
        figure = drawing.figure
        figure.canvas.draw()
        needed = figure.get_tightbbox().width  # inches
        assert image.imread(save_png(drawing, tmp_path)).shape[1] >= int(200 * needed), drawing.name  # whole pixels
        assert float(re.findall(r'width="([0-9.]+)pt"', svg(drawing))[0]) >= 72 * needed - 0.01, drawing.name
    assert any(d.figure.get_tightbbox().width > d.figure.get_figwidth() for d in drawings), "one is too long"
    close(drawings)


def test_a_paper_s_grid_has_a_mark_a_seed_and_a_line_at_their_mean(tmp_path: Path) -> None:
    benchmark = make_benchmark(tmp_path, without=["lora/seed2"])
    del benchmark.cells["zero_shot"][0].result.metrics["accuracy"]
    (drawing,) = draw(records_of(benchmark), "sentiment", paper=True)
    axis = drawing.figure.axes[0]
    marks = [[round(float(x), 6) for x in line.get_xdata()] for line in axis.lines]
    assert marks[0] == [30, 31], "what an older run lacks is not drawn"
    row = 2 * list(METHODS).index("lora")
    assert marks[row] == [79, 80]
    assert marks[row + 1] == [79.5, 79.5]
    assert [label.get_text() for label in axis.get_yticklabels()][-2:] == ["LoRA", "full fine-tuning"]
    assert drawing.name == "sentiment_variants"
    close([drawing])


def test_transfer_is_a_mark_a_domain(tmp_path: Path) -> None:
    kinds = [{"domain": ["tweets"]}, {"domain": ["editorials"]}]
    *others, drawing = draw(records_of(make_benchmark(tmp_path, transfer=kinds)), "sentiment")
    marks = {line.get_label(): [round(float(x), 6) for x in line.get_xdata()] for line in drawing.figure.axes[0].lines}
    lora = list(METHODS).index("lora")
    assert {name: values[lora] for name, values in marks.items()} == {"as trained": 80, "tweets": 70, "editorials": 60}
    close([*others, drawing])


def test_requests_in_other_languages_are_judged_by_their_slots(tmp_path: Path) -> None:
    records = records_of(make_benchmark(tmp_path, "home_commands", transfer=[{"language": ["de"]}]))
    assert [measure.name for measure in transfers(records, "home_commands")] == ["slot_f1 on de"]
    *others, drawing = draw(records, "home_commands")
    assert drawing.figure.axes[0].get_xlabel() == "slot_f1, %"
    close([*others, drawing])
