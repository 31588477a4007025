"""The benchmark's grid: what is kept, and what is done again. No run is real."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks import jobs as jobs_module
from benchmarks.grid import __main__ as runner
from benchmarks.grid.records import keep_grid
from benchmarks.grid.settings import GridConfig, load_benchmark
from benchmarks.jobs import Process, WorkersConfig
from made_result import make_result
from softprompts.errors import UserError
from softprompts.metrics.scoring import Interval

import pytest

MakeGrid = Callable[..., GridConfig]
LR = "training.learning_rate"
ROWS = [("row 1\u2028", " a"), ("row 2", " b")]  # a line separator in a text ends no line of JSON


class Launches:
    """Stands in for the processes of runs: writes what a run leaves, or fails where `fails` says so."""

    def __init__(self) -> None:
        self.ran: list[list[str]] = []
        self.fails: dict[str, int] = {}
        self.best: dict[str, float] = {}

    def __call__(self, process: Process) -> tuple[int, str]:
        run, folder = process.arguments, process.folder
        self.ran.append(run)
        flags = dict(zip(run[1::2], run[2::2], strict=False))
        if run[0] == "-mbenchmarks.grid.probe":
            record = Path(flags["--probe.record"])
            known = json.loads(record.read_text(encoding="utf-8"))["what"] if record.is_file() else []
            what = list(dict.fromkeys([*known, *ast.literal_eval(flags["--probe.what"])]))
            record.write_text(json.dumps({"what": what, "latency": {"rows": 1.0}, "seconds": 3.0}), encoding="utf-8")
            return 0, ""
        if code := self.fails.get(folder.name):
            return code, "error: it broke"
        folder.mkdir(parents=True)
        rate = flags.get("--training.learning_rate", flags.get("--training.ema", "0"))
        training = {"best_value": self.best.get(rate, 0.0), "best_step": 2, "step": 4, "history": [{"step": 0}]}
        settings = {
            "training": {"best_by": "loss", "learning_rate": float(rate)},
            "task": {"metrics": ["accuracy", "macro_f1"], "schema": None},
        }
        result = make_result(
            training=training,
            settings=settings,
            seed=int(flags["--run.seed"]),
            cost={"seconds_total": 10.0},
            metrics={"accuracy": Interval(0.5, 0.0, 1.0, 2)},
        )
        (folder / "result.json").write_text(json.dumps(asdict(result)), encoding="utf-8")
        rows = [{"place": p, "prompt": p, "target": t, "prediction": " a"} for p, t in ROWS]
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (folder / "predictions.jsonl").write_text("\n".join(lines), encoding="utf-8")
        return 0, ""

    def methods(self) -> list[str]:
        """Return which runs were made, by folder."""
        outputs = [run[run.index("--run.output_dir") + 1] for run in self.ran if "--run.output_dir" in run]
        return ["/".join(Path(output).parts[-2:]) for output in outputs]


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    made = Launches()
    monkeypatch.setattr(jobs_module, "launched", made)
    return made


def run(grid: GridConfig, folder: Path, **options: Any) -> Path:
    """Run a grid and return the folder of its records."""
    launch = runner.LaunchConfig(records=str(folder / "records"), runs=str(folder / "runs"), **options)
    runner.main(grid, launch, WorkersConfig())
    return folder / "records" / "sentiment"


def test_everything_is_kept_and_nothing_done_twice(make_grid: MakeGrid, tmp_path: Path, launches: Launches) -> None:
    launches.best = {"0.01": -1.0, "0.1": -0.3}
    folder = run(make_grid(probes=["latency"]), tmp_path)
    assert len(launches.ran) == 2 + 2 * 2 * 2
    found = load_benchmark(folder)
    assert found.missing == []
    assert found.rows == [{"place": p, "prompt": p, "target": t} for p, t in ROWS]
    assert found.sweeps["prompt_tuning"]["chosen"] == {"training.learning_rate": 0.1}
    assert [p["best_value"] for p in found.sweeps["prompt_tuning"]["points"]] == [-1.0, -0.3]
    assert found.cells["written"][1].answers == [" a", " a"]
    assert found.cells["prompt_tuning"][0].probes["latency"] == {"rows": 1.0}
    assert found.values("written", "accuracy") == [0.5, 0.5]
    assert (found.label("written"), found.label("prompt_tuning")) == ("hard prompt", "prompt tuning")
    runs = [r for r in launches.ran if r[0] == "recipes/prompt_tuning.py" and "--evaluation.split" not in r]
    assert [r[len(r) - 1 - r[::-1].index("--training.learning_rate") + 1] for r in runs] == ["0.1", "0.1"]
    launches.ran.clear()
    run(make_grid(probes=["latency"]), tmp_path)
    assert launches.ran == []


def test_probes_may_wait_for_a_later_launch(make_grid: MakeGrid, tmp_path: Path, launches: Launches) -> None:
    def measured() -> list[list[str]]:
        cells = load_benchmark(tmp_path / "records" / "sentiment").cells
        return [cell.probes.get("what", []) for seeds in cells.values() for cell in seeds.values()]

    def asked(**options: Any) -> list[str]:
        launches.ran.clear()
        run(make_grid(probes=["forgetting", "latency"]), tmp_path, **options)
        return [r[r.index("--probe.what") + 1] if "--probe.what" in r else r[0] for r in launches.ran]

    assert len(asked(probes=[])) == 2 + 2 * 2
    assert measured() == [[]] * 4
    assert asked(probes=["forgetting"]) == ["['forgetting']"] * 4, "no run was made twice"
    assert asked(probes=["forgetting"]) == []
    asked()
    assert measured() == [["forgetting", "latency"]] * 4
    assert asked() == []
    with pytest.raises(UserError, match=r'^launch.probes: "latencies" \(did you mean "latency"'):
        asked(probes=["latencies"])


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_whose_folder_is_gone_is_made_again_for_its_probes_and_its_record_stays(
    make_grid: MakeGrid, tmp_path: Path, launches: Launches, fails: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(make_grid(), tmp_path)
    record = folder / "written" / "seed0.json"
    before = record.read_bytes()
    shutil.rmtree(tmp_path / "runs" / "sentiment" / "written" / "seed0")
    launches.ran.clear()
    launches.fails = {"seed0": 1} if fails else {}
    if fails:
        with pytest.raises(SystemExit):
            run(make_grid(probes=["latency"]), tmp_path)
    else:
        run(make_grid(probes=["latency"]), tmp_path)
    assert launches.methods() == ["written/seed0"]
    assert ("made again for its probes, 100 % of its answers" in capsys.readouterr().out) is not fails
    assert record.read_bytes() == before
    assert load_benchmark(folder).cells["written"][0].probes == (
        {} if fails else {"what": ["latency"], "latency": {"rows": 1.0}, "seconds": 3.0}
    )
    assert load_benchmark(folder).cells["written"][1].probes


def test_a_grid_whose_shipped_config_has_changed_does_not_go_on(
    make_grid: MakeGrid, tmp_path: Path, launches: Launches
) -> None:
    """Its table would mix the settings of two configs."""
    folder = run(make_grid(), tmp_path)
    file = folder / "prompt_tuning" / "seed0.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    record["settings"]["prompt"] = {"num_virtual_tokens": 99}
    file.write_text(json.dumps(record), encoding="utf-8")
    launches.ran.clear()
    run(make_grid(), tmp_path)  # nothing is left to do
    run(make_grid(seeds=[0, 1, 2]), tmp_path, only=["written"])
    assert launches.methods() == ["written/seed2"], "its own table is not mixed"
    with pytest.raises(
        UserError, match=r"prompt_tuning/seed0\.json: was made with other settings than configs/sentiment/"
    ):
        run(make_grid(seeds=[0, 1, 2]), tmp_path)
    shutil.rmtree(tmp_path / "runs" / "sentiment" / "prompt_tuning" / "seed0")
    with pytest.raises(UserError, match=r"have now \(num_virtual_tokens 4\); undo this change, or move .*seed\* away"):
        run(make_grid(seeds=[0, 1, 2], probes=["latency"]), tmp_path, only=["prompt_tuning"])
    assert launches.methods() == ["written/seed2"]


def test_a_grid_may_grow_but_not_change(make_grid: MakeGrid, tmp_path: Path, launches: Launches) -> None:
    folder = run(make_grid(), tmp_path)
    launches.ran.clear()
    run(make_grid(seeds=[0, 1, 2]), tmp_path)
    assert launches.methods() == ["written/seed2", "prompt_tuning/seed2"]
    with pytest.raises(
        UserError, match=r"measured with other settings \(training, methods\.prompt_tuning: seed 2 is gone, "
    ):
        run(make_grid(training=make_grid().training | {"steps": 8}), tmp_path)
    assert load_benchmark(folder).grid["seeds"] == [0, 1, 2]


def test_a_sweep_may_go_on_and_runs_made_with_what_it_chose_before_are_no_more_taken_for_its_own(
    make_grid: MakeGrid, tmp_path: Path, launches: Launches
) -> None:
    launches.best = {"0.01": -1.0, "0.1": -0.3, "0.3": -0.2, "0.8": -0.6, "0.9": -0.7}
    folder = run(make_grid(seeds=[0], probes=["latency"]), tmp_path)

    def with_further(*rates: float) -> GridConfig:
        grid = make_grid(seeds=[0], probes=["latency"])
        tuned = grid.methods["prompt_tuning"]
        further = [{"training.learning_rate": rate} for rate in rates]
        grid.methods["prompt_tuning"] = replace(tuned, further=further)
        return grid

    launches.ran.clear()
    run(with_further(0.9), tmp_path)
    assert launches.methods() == ["prompt_tuning/sweep_0.9"], "the choice is what it was"
    launches.ran.clear()
    runs = tmp_path / "runs" / "sentiment" / "prompt_tuning"
    said = r"other values than its sweep chooses now \(learning_rate 0\.3\); move .*/seed\* and .*/seed\* away"
    for _ in range(2):  # also before anything else is done
        with pytest.raises(UserError, match=said):
            run(with_further(0.9, 0.3), tmp_path)
        assert launches.methods() == ["prompt_tuning/sweep_0.3"]
    launches.ran.clear()
    with pytest.raises(UserError, match=said):
        run(with_further(0.9, 0.3, 0.8), tmp_path)
    assert launches.methods() == ["prompt_tuning/sweep_0.8"], "a sweep may go on before its runs are made anew"
    for file in (folder / "prompt_tuning").glob("seed*"):
        file.unlink()
    shutil.rmtree(runs / "seed0")
    launches.ran.clear()
    run(with_further(0.9, 0.3, 0.8), tmp_path)
    assert launches.methods() == ["prompt_tuning/seed0"]
    found = load_benchmark(folder)
    assert [p["best_value"] for p in found.sweeps["prompt_tuning"]["points"]] == [-1.0, -0.3, -0.7, -0.2, -0.6]
    assert found.cells["prompt_tuning"][0].result.settings["training"]["learning_rate"] == 0.3
    with pytest.raises(UserError, match=r"other settings \(methods\.prompt_tuning\)"):
        run(with_further(0.3), tmp_path)


def test_a_sweep_continues_beyond_an_edge_before_anything_is_scored_on_test(
    make_grid: MakeGrid, tmp_path: Path, launches: Launches
) -> None:
    launches.best = {"0.01": -1.0, "0.1": -0.3, "1.0": -0.2, "10.0": -0.4, "0.03": -0.9}
    settings = make_grid(seeds=[0], extensions=3)
    folder = run(settings, tmp_path)
    tuned = [f"prompt_tuning/sweep{name}" for name in ("00", "01", "_1.0", "_10.0")]
    assert launches.methods() == [*tuned, "written/seed0", "prompt_tuning/seed0"]
    found = load_benchmark(folder)
    swept = [p["values"]["training.learning_rate"] for p in found.sweeps["prompt_tuning"]["points"]]
    assert swept == [0.01, 0.1, 1.0, 10.0]
    assert found.sweeps["prompt_tuning"]["chosen"] == {"training.learning_rate": 1.0}
    assert found.cells["prompt_tuning"][0].result.settings["training"]["learning_rate"] == 1.0
    launches.ran.clear()
    shutil.rmtree(tmp_path / "runs")  # on another machine
    run(settings, tmp_path)
    assert launches.ran == []
    tuned = settings.methods["prompt_tuning"]
    more = replace(settings, methods=settings.methods | {"prompt_tuning": replace(tuned, further=[{LR: 0.03}])})
    run(more, tmp_path)
    assert launches.methods() == ["prompt_tuning/sweep_0.03"], "points of the user's own come after those found before"
    kept = load_benchmark(folder).sweeps["prompt_tuning"]
    assert [p["values"][LR] for p in kept["points"]] == [0.01, 0.1, 1.0, 10.0, 0.03]
    assert [p["best_value"] for p in kept["points"]] == [-1.0, -0.3, -0.2, -0.4, -0.9]


@pytest.mark.parametrize(
    ("extensions", "tried"), [(0, [0.01, 0.1]), (1, [0.01, 0.1, 1.0]), (2, [0.01, 0.1, 1.0, 10.0])]
)
def test_a_sweep_continues_at_most_as_often_as_asked(
    extensions: int, tried: list[float], make_grid: MakeGrid, tmp_path: Path, launches: Launches
) -> None:
    launches.best = {"0.01": -4.0, "0.1": -3.0, "1.0": -2.0, "10.0": -1.0, "100.0": -0.5}
    folder = run(make_grid(seeds=[0]), tmp_path)
    for record in folder.glob("prompt_tuning/seed*"):
        record.unlink()
    shutil.rmtree(tmp_path / "runs" / "sentiment" / "prompt_tuning" / "seed0")
    folder = run(make_grid(seeds=[0], extensions=extensions), tmp_path)  # also a sweep that was recorded before
    assert [p["values"][LR] for p in load_benchmark(folder).sweeps["prompt_tuning"]["points"]] == tried


def test_a_point_of_the_users_own_never_takes_the_result_of_a_point_beyond_the_edge(
    make_grid: MakeGrid, tmp_path: Path, launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first launch ends after the run of a point beyond the edge, before the sweep's record has it."""
    launches.best = {"0.01": -1.0, "0.1": -0.3, "1.0": -0.2, "0.03": -0.9, "0.33": -0.4}
    settings = make_grid(seeds=[0], extensions=2)

    def stopped(process: Process) -> tuple[int, str]:
        launches(process)
        if process.folder.name == "sweep_1.0":
            raise SystemExit(143)
        return 0, ""

    monkeypatch.setattr(jobs_module, "launched", stopped)
    with pytest.raises(SystemExit):
        run(settings, tmp_path)
    monkeypatch.setattr(jobs_module, "launched", launches)
    tuned = replace(settings.methods["prompt_tuning"], further=[{LR: 0.03}])
    folder = run(replace(settings, methods=settings.methods | {"prompt_tuning": tuned}), tmp_path)
    kept = {p["values"][LR]: p["best_value"] for p in load_benchmark(folder).sweeps["prompt_tuning"]["points"]}
    assert kept == {0.01: -1.0, 0.1: -0.3, 0.03: -0.9, 0.33: -0.4}


def test_a_point_beyond_the_edge_that_the_recipe_refuses_is_left_out(
    make_grid: MakeGrid, tmp_path: Path, launches: Launches, capsys: pytest.CaptureFixture[str]
) -> None:
    launches.best = {"0.5": -1.0, "0.97": -0.3}
    settings = make_grid(seeds=[0], extensions=4)
    method = replace(settings.methods["prompt_tuning"], sweep={"training.ema": [0.5, 0.97]})
    run(replace(settings, methods={"prompt_tuning": method}), tmp_path)
    assert "prompt_tuning: the sweep ends at its edge: training.ema: " in capsys.readouterr().out
    assert launches.methods() == ["prompt_tuning/sweep00", "prompt_tuning/sweep01", "prompt_tuning/seed0"]


def test_a_sweep_whose_choice_is_used_already_is_extended_and_the_runs_refused(
    make_grid: MakeGrid, tmp_path: Path, launches: Launches
) -> None:
    launches.best = {"0.01": -4.0, "0.1": -3.0, "1.0": -2.0, "10.0": -3.0}
    run(make_grid(seeds=[0]), tmp_path)
    with pytest.raises(UserError, match=r"other values than its sweep chooses now \(learning_rate 1\.0\); move"):
        run(make_grid(seeds=[0], extensions=2), tmp_path)
    assert launches.methods()[-1] == "prompt_tuning/sweep_10.0"


def test_a_failed_run_is_a_record_and_the_others_go_on(
    make_grid: MakeGrid, tmp_path: Path, launches: Launches, capsys: pytest.CaptureFixture[str]
) -> None:
    launches.fails = {"seed1": 2, "sweep00": -9}
    with pytest.raises(SystemExit) as ended:
        run(make_grid(), tmp_path)
    assert ended.value.code == 1
    assert "3 of 6 jobs failed" in capsys.readouterr().err
    found = load_benchmark(tmp_path / "records" / "sentiment")
    assert found.failed == {"written": {1: "error: it broke"}, "prompt_tuning": {1: "error: it broke"}}
    assert found.missing == [("written", 1), ("prompt_tuning", 1)]
    assert found.sweeps["prompt_tuning"]["points"][0]["failure"] == "error: it broke"
    assert found.sweeps["prompt_tuning"]["chosen"] == {"training.learning_rate": 0.1}
    launches.ran.clear()
    with pytest.raises(SystemExit):
        run(make_grid(), tmp_path)
    assert launches.ran == [], "a failure is not tried again by itself"
    launches.fails = {}
    run(make_grid(), tmp_path, retry=True)
    assert launches.methods() == ["written/seed1", "prompt_tuning/seed1"], "the sweep is closed"
    assert load_benchmark(tmp_path / "records" / "sentiment").failed == {"written": {}, "prompt_tuning": {}}


def test_without_a_sweep_there_is_no_run_and_no_probe(make_grid: MakeGrid, tmp_path: Path, launches: Launches) -> None:
    launches.fails = {"sweep00": 2, "sweep01": 2}
    with pytest.raises(SystemExit):
        run(make_grid(probes=["latency"]), tmp_path, only=["prompt_tuning"])
    assert launches.methods() == ["prompt_tuning/sweep00", "prompt_tuning/sweep01"]
    failed = load_benchmark(tmp_path / "records" / "sentiment").failed["prompt_tuning"]
    assert failed == dict.fromkeys((0, 1), "every point of its sweep failed")


def test_a_sweep_whose_points_all_failed_is_made_again_by_a_retry(
    make_grid: MakeGrid, tmp_path: Path, launches: Launches
) -> None:
    launches.fails = {"sweep00": 2, "sweep01": 2}
    with pytest.raises(SystemExit):
        run(make_grid(seeds=[0]), tmp_path, only=["prompt_tuning"])
    with pytest.raises(SystemExit):
        run(make_grid(seeds=[0]), tmp_path, only=["prompt_tuning"], retry=True)
    assert launches.methods() == ["prompt_tuning/sweep00", "prompt_tuning/sweep01"] * 2
    launches.ran.clear()
    launches.fails, launches.best = {}, {"0.01": -1.0, "0.1": -0.3}
    folder = run(make_grid(seeds=[0]), tmp_path, only=["prompt_tuning"], retry=True)
    assert launches.methods() == ["prompt_tuning/sweep00", "prompt_tuning/sweep01", "prompt_tuning/seed0"]
    assert load_benchmark(folder).sweeps["prompt_tuning"]["chosen"] == {LR: 0.1}


def test_a_benchmark_has_one_launch_at_a_time(make_grid: MakeGrid, tmp_path: Path, launches: Launches) -> None:
    folder = tmp_path / "runs" / "sentiment"
    folder.mkdir(parents=True)
    script = "import sys, time; from pathlib import Path; from softprompts.system import locks\n"
    script += "locks.own(Path(sys.argv[1])); print('owned', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdout.readline() == b"owned\n"
        try:
            with pytest.raises(UserError, match=rf"^launch\.runs: {folder} is in use by process {other.pid} on "):
                run(make_grid(), tmp_path)
        finally:
            other.kill()
    assert launches.ran == []
    run(make_grid(), tmp_path)  # the other one has ended


def test_other_methods_failures_are_not_this_launchs(make_grid: MakeGrid, tmp_path: Path, launches: Launches) -> None:
    launches.fails = {"seed1": 2}
    with pytest.raises(SystemExit):
        run(make_grid(), tmp_path, only=["written"])
    launches.fails = {}
    run(make_grid(), tmp_path, only=["prompt_tuning"])


def test_a_finished_run_keeps_no_checkpoints(
    make_grid: MakeGrid, tmp_path: Path, launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_checkpoints(process: Process) -> tuple[int, str]:
        outcome = launches(process)
        (process.folder / "checkpoints" / "step-1").mkdir(parents=True)
        return outcome

    monkeypatch.setattr(jobs_module, "launched", with_checkpoints)
    run(make_grid(), tmp_path)
    assert not list(tmp_path.glob("runs/**/checkpoints")), "those of sweeps neither"


def test_other_test_rows_are_refused(
    make_grid: MakeGrid, tmp_path: Path, launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = make_grid()
    run(grid, tmp_path, only=["written"])
    monkeypatch.setitem(globals(), "ROWS", [("row 1", " a"), ("row 3", " b")])
    with pytest.raises(UserError, match="was tested on other rows than"):
        run(grid, tmp_path)


def test_a_plan_says_what_is_left_and_does_nothing(
    make_grid: MakeGrid, tmp_path: Path, launches: Launches, capsys: pytest.CaptureFixture[str]
) -> None:
    run(make_grid(), tmp_path, only=["written"])
    launches.ran.clear()
    capsys.readouterr()
    run(make_grid(), tmp_path, plan=True)
    said = capsys.readouterr().out
    assert said.startswith("sentiment: 2 methods: 6 jobs, 2 of them recorded; about ")
    assert "prompt_tuning, sweep: learning_rate 0.01: about " in said
    assert launches.ran == []


def test_a_folder_without_a_grid_is_one_line(tmp_path: Path, make_grid: MakeGrid) -> None:
    with pytest.raises(UserError, match=r"is not the folder of a benchmark, because it has no grid\.json"):
        load_benchmark(tmp_path)
    keep_grid(make_grid(), tmp_path)
    assert load_benchmark(tmp_path).missing == [(m, s) for m in ("written", "prompt_tuning") for s in (0, 1)]
    (tmp_path / "written").mkdir()
    record = replace(make_result(), metrics={})
    (tmp_path / "written" / "seed0.json").write_text(json.dumps(asdict(record)), encoding="utf-8")
    with pytest.raises(UserError, match="its predictions are missing"):
        load_benchmark(tmp_path)


def test_records_older_than_a_key_of_the_grid_go_on(tmp_path: Path, make_grid: MakeGrid) -> None:
    keep_grid(make_grid(), tmp_path)
    file = tmp_path / "grid.json"
    kept = json.loads(file.read_text(encoding="utf-8"))
    del kept["transfer_rows"]
    file.write_text(json.dumps(kept), encoding="utf-8")
    keep_grid(make_grid(), tmp_path)
    with pytest.raises(UserError, match=r"other settings \(transfer_rows\)"):
        keep_grid(make_grid(transfer_rows=10), tmp_path)
