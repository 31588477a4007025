"""What there is to do of a grid, in which order, with which arguments, and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.grid import __main__ as runner
from benchmarks.grid.plan import Job, check, choose, command, jobs, points
from benchmarks.grid.records import UNKNOWN, expected, record_of
from benchmarks.grid.settings import GridConfig, MethodConfig
from benchmarks.jobs import WorkersConfig
from softprompts.errors import UserError

import pytest

MakeGrid = Callable[..., GridConfig]
TRANSFER = "grid.transfer and the probe transfer in grid.probes require each other"


def test_sweeps_come_first_then_every_method_with_every_seed_then_the_probes(
    make_grid: MakeGrid, tmp_path: Path
) -> None:
    made = jobs(make_grid(probes=["latency"]), tmp_path)
    assert [(j.kind, j.method, j.number) for j in made] == [
        ("sweep", "prompt_tuning", 0),
        ("sweep", "prompt_tuning", 1),
        *((kind, m, s) for kind in ("run", "probe") for s in (0, 1) for m in ("written", "prompt_tuning")),
    ]
    assert made[1].values == {"training.learning_rate": 0.1}


def test_a_method_may_have_seeds_of_its_own(make_grid: MakeGrid, tmp_path: Path) -> None:
    grid = make_grid()
    grid.methods["prompt_tuning"].seeds = [0, 1, 2]
    runs = [(j.method, j.number) for j in jobs(grid, tmp_path) if j.kind == "run"]
    both = [(m, s) for s in (0, 1) for m in ("written", "prompt_tuning")]
    assert runs == [*both, ("prompt_tuning", 2)]
    grid.methods["prompt_tuning"].seeds = [1, 1]
    with pytest.raises(
        UserError, match=r"^grid\.methods: prompt_tuning: seeds: expected one or more different numbers"
    ):
        check(grid, tmp_path)


def test_a_sweep_never_sees_test_and_a_run_takes_what_it_chose(make_grid: MakeGrid, tmp_path: Path) -> None:
    grid = make_grid()
    sweep, _, written, tuned, *_ = jobs(grid, tmp_path)

    def flags(job: Job, chosen: dict[str, Any]) -> dict[str, str]:
        line = command(grid, job, chosen)
        return dict(zip(line[1:-1:2], line[2:-1:2], strict=True))

    found = flags(sweep, {})
    assert (found["--evaluation.split"], found["--training.steps"], found["--run.seed"]) == ("validation", "2", "100")
    found = flags(tuned, {"training.learning_rate": 0.1})
    assert "--evaluation.split" not in found
    assert (found["--training.learning_rate"], found["--training.steps"], found["--run.seed"]) == ("0.1", "4", "0")
    assert not [key for key in flags(written, {}) if key.startswith("--training.")], "it does not train"


def test_points_are_all_combinations_and_the_best_is_chosen() -> None:
    made = points(MethodConfig("lora", sweep={"a": [1, 2], "b": [3, 4]}))
    assert made == [{"a": 1, "b": 3}, {"a": 1, "b": 4}, {"a": 2, "b": 3}, {"a": 2, "b": 4}]
    assert points(MethodConfig("lora", sweep={"a": [1]}, further=[{"a": 9}])) == [{"a": 1}, {"a": 9}]
    values = [-1.0, -0.5, None, -2.0]
    assert choose([{"values": v, "best_value": x} for v, x in zip(made, values, strict=True)]) == made[1]
    assert choose([{"values": made[0], "best_value": None}]) is None
    assert points(MethodConfig("lora")) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "sentimant"}, 'grid.task: "sentimant" (did you mean "sentiment"?)'),
        ({"seeds": [1, 1]}, "grid.seeds: expected one or more different numbers, found [1, 1]"),
        ({"probes": ["transfer"]}, TRANSFER),
        ({"transfer": [{"domain": ["tweets"]}]}, TRANSFER),
        ({"probes": ["latencies"]}, 'grid.probes: "latencies" (did you mean "latency"?)'),
        ({"methods": {"a": MethodConfig("lorra")}}, 'grid.methods: a: recipe "lorra" (did you mean "lora"?)'),
        (
            {"methods": {"a": MethodConfig("lora", settings={"lora.rr": 3})}},
            'grid.methods: a: unknown flag "--lora.rr" (did you mean "lora.r"?)',
        ),
        (
            {"methods": {"a": MethodConfig("hard_prompt", sweep={"hard.shots": [4, 8]})}},
            "grid.methods: a: sweep: hard_prompt does not train, so validation chooses nothing",
        ),
        (
            {"methods": {"a": MethodConfig("lora", sweep={"lora.r": []})}},
            "grid.methods: a: sweep: a key without values",
        ),
        (
            {"methods": {"a": MethodConfig("lora", sweep={"lora.r": [2]}, further=[{"lora.rank": 4}])}},
            "grid.methods: a: further: {'lora.rank': 4}: expected values of its sweep's keys (lora.r)",
        ),
    ],
)
def test_what_is_wrong_with_a_grid_is_one_line_before_anything_runs(
    make_grid: MakeGrid, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as raised:
        check(make_grid(**changes), tmp_path)
    assert str(raised.value) == message


def test_a_method_that_the_grid_lacks_is_an_error(make_grid: MakeGrid, tmp_path: Path) -> None:
    launch = runner.LaunchConfig(
        str(tmp_path / "records"), str(tmp_path), plan=True, only=["written", "prompt_tunning"]
    )
    with pytest.raises(UserError) as raised:
        runner.main(make_grid(), launch, WorkersConfig())
    assert str(raised.value) == 'launch.only: "prompt_tunning" (did you mean "prompt_tuning"?)'


def test_the_record_of_a_point_is_the_sweeps(make_grid: MakeGrid, tmp_path: Path) -> None:
    grid = make_grid(probes=["latency"], seeds=[0])
    names = [record_of(tmp_path, job).name for job in jobs(grid, tmp_path)]
    assert names == ["sweep.json"] * 2 + ["seed0.json"] * 2 + ["seed0.probes.json"] * 2


def test_the_probes_are_told_which_rows_to_take(tmp_path: Path, make_grid: MakeGrid) -> None:
    grid = make_grid(probes=["transfer"], transfer=[{"label": ["positive"]}], transfer_rows=7, sampled_rows=5)
    probe = next(job for job in jobs(grid, tmp_path) if job.kind == "probe")
    flags = runner.probe_flags(grid, tmp_path, probe)
    given = dict(zip(flags[::2], flags[1::2], strict=True))
    assert json.loads(given["--probe.transfer"]) == [{"label": ["positive"]}]
    assert given["--probe.transfer_rows"] == "7"
    assert given["--probe.sampled_rows"] == "5"


def write_seconds(benchmarks: Path, seconds: dict[str, float]) -> None:
    """Write records of runs and probes, with what they took."""
    for name, value in seconds.items():
        path = benchmarks / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {"seconds": value} if name.endswith(".probes") else {"cost": {"seconds_total": value}}
        path.write_text(json.dumps(record), encoding="utf-8")


def test_the_time_of_a_job_is_that_of_the_most_similar_records(make_grid: MakeGrid, tmp_path: Path) -> None:
    grid, folder = make_grid(probes=["latency"], task="nothing_shipped"), tmp_path / "records" / "mine"
    every = jobs(grid, tmp_path)

    def found() -> list[float]:
        seconds = {(job.kind, job.method, job.number): value for job, value in expected(grid, every, folder).items()}
        return [seconds[kind, "prompt_tuning", 1] for kind in ("run", "probe")]

    assert found() == [UNKNOWN, UNKNOWN]
    write_seconds(
        folder.parent, {"other/lora/seed0": 100, "other/lora/seed0.probes": 10, "other/lora/seed0.answers": 5}
    )
    assert found() == [100, 10], "of another method"
    write_seconds(folder.parent, {"other/prompt_tuning/seed0": 200, "other/prompt_tuning/seed1": 400})
    write_seconds(folder.parent, {"other/prompt_tuning/seed0.probes": 20})
    assert found() == [300, 20], "of the method in other tasks"
    write_seconds(folder.parent, {"nothing_shipped/prompt_tuning/seed0": 500})
    assert found() == [500, 20], "of the task"
    write_seconds(folder.parent, {"mine/prompt_tuning/seed0": 600, "mine/prompt_tuning/seed0.probes": 60})
    assert found() == [600, 60], "of the benchmark itself"
