"""Run the processes of a benchmark: one after another, or side by side on a Ray cluster. Each one's output is kept."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from softprompts.errors import UserError
from softprompts.system import locks
from softprompts.system.signals import collected_signals

Job = TypeVar("Job")
# A process, the reason why the job cannot run, or None as long as another job has to end first.
Start = Callable[[Job], "Process | str | None"]
# It gets the job, the exit code and the last line of the output.
Keep = Callable[[Job, int, str], None]

PARENT_DIED = 1  # PR_SET_PDEATHSIG of prctl(2)
LOOK = 1.0  # seconds after which a wait for Ray looks for signals
# Variables of the launch that its processes on other nodes get too. The number of threads and GPUs is Ray's to set.
VARIABLES = ("HF_HOME", "HF_HUB_OFFLINE", "PYTHONPATH")


@dataclass
class WorkersConfig:
    """The processes that do the jobs.

    Args:
        ray: `auto` for the Ray cluster that runs here, or a new one on this machine; or the address of a cluster, such
            as `10.0.0.1:6379`. By default, the jobs run one after another, without Ray.
        cpus: CPUs of each job, on Ray.
        gpus: GPUs of each job, on Ray; 0.5 lets two jobs share one.
        retries: how many times Ray starts a job again whose worker or node has died.
    """

    ray: str | None = None
    cpus: float = 1
    gpus: float = 0
    retries: int = 3


@dataclass(frozen=True)
class Process:
    """A script that does one job.

    Args:
        arguments: what follows `python`.
        folder: of the job's output. The text that the script prints is in a file next to it, `NAME.log.txt`.
        mixed_precision: as of `accelerate launch`; with `auto`, bf16 if the processor or GPU has instructions for it.
    """

    arguments: list[str]
    folder: Path
    mixed_precision: str = "no"


def run_jobs(jobs: Sequence[Job], start: Start[Job], keep: Keep[Job], workers: WorkersConfig) -> None:
    """Do all jobs. `start` and `keep` run in this process, `keep` for one job at a time.

    Args:
        jobs: in their order; a job comes after those that it needs.
        start: returns the process of a job.
        keep: keeps what a job has left.
        workers: where the processes run.

    Raises:
        UserError: Ray is not installed, or there is no cluster at the address.
        SystemExit: with code 128 + signal after SIGINT or SIGTERM. Each run has saved a checkpoint.
    """
    if workers.ray is None:
        for job in jobs:
            process = start(job)
            assert process is not None, "the jobs that it needs come first"
            keep(job, *((1, process) if isinstance(process, str) else launched(process)))
    else:
        _run_on_ray(jobs, start, keep, workers)


def _mixed_precision(process: Process) -> str:
    """Return the mixed precision of a process on this machine."""
    if process.mixed_precision != "auto":
        return process.mixed_precision
    from softprompts.config.sections import ModelConfig
    from softprompts.models.loading import dtype_of

    import torch  # takes a second, and few need it

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return "bf16" if dtype_of(ModelConfig("", dtype="auto"), device) == torch.bfloat16 else "no"


def launched(process: Process) -> tuple[int, str]:
    """Run a script to its end; return its exit code and the last line of its output.

    The script ends with this process, even if that is killed. So a run never has two processes.

    Raises:
        SystemExit: with code 128 + signal, if SIGINT or SIGTERM stopped the script or this process.
    """
    process.folder.mkdir(parents=True, exist_ok=True)
    # Next to the folder, because a recipe accepts only a folder that is new, empty, or its own.
    log = process.folder.with_name(f"{process.folder.name}.log.txt")
    with log.open("ab") as output:
        # In a separate session, so that signals of the terminal arrive once, through collected_signals.
        script = subprocess.Popen(
            [sys.executable, *process.arguments],
            env=os.environ | {"ACCELERATE_MIXED_PRECISION": _mixed_precision(process)},
            stdout=output,
            stderr=output,
            preexec_fn=_ends_with_parent(),
            start_new_session=True,
        )
        with collected_signals(script.send_signal) as received:  # it saves its checkpoint
            # With a time limit, because Ray's signal for a worker does not interrupt a wait without one.
            code = script.wait(timeout=threading.TIMEOUT_MAX)
    if received:  # the next launch keeps a run that has nevertheless ended
        print(f"stopped; the same command continues ({log})", file=sys.stderr)
        raise SystemExit(128 + received[0])
    if code < 0:
        return code, f"killed by {signal.Signals(-code).name}"
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return code, lines[-1].rpartition("\r")[2].strip()[-500:] if lines else "it printed nothing"


def _ends_with_parent() -> Callable[[], object] | None:
    """Return what a new process calls, so that the kernel kills it when its parent ends; None if only Linux can."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PARENT_DIED, signal.SIGKILL)


def _run_on_ray(jobs: Sequence[Job], start: Start[Job], keep: Keep[Job], workers: WorkersConfig) -> None:
    ray = _connected(workers)  # until this process ends, because a benchmark calls this once for each of its stages
    task = ray.remote(
        num_cpus=workers.cpus, num_gpus=workers.gpus, max_retries=workers.retries, retry_exceptions=False
    )(_on_worker)
    given = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    waiting = list(jobs)
    running: dict[Any, Job] = {}
    # After the connection, for which Ray sets handlers of its own.
    with collected_signals(lambda _: None) as received:
        while waiting or running:
            for job in list(waiting):
                process = start(job)
                if process is None:
                    continue
                waiting.remove(job)
                if isinstance(process, str):
                    keep(job, 1, process)
                else:
                    running[task.remote(process, str(Path.cwd()), given)] = job
            ended, _ = ray.wait(list(running), timeout=LOOK) if running else ([], [])
            if received:
                _stop(ray, list(running))
                raise SystemExit(128 + received[0])
            for reference in ended:
                keep(running.pop(reference), *_outcome(ray, reference))


def _connected(workers: WorkersConfig) -> Any:
    """Return Ray's module, connected to a cluster."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is sent to anybody
    try:
        import ray  # not above: it comes with an extra
    except ImportError:
        raise UserError('workers.ray: requires Ray; install it: in a clone, pip install -e ".[ray]"') from None
    if ray.is_initialized():
        return ray
    address = None if workers.ray == "auto" else workers.ray
    if address is not None:
        _reach(address)
    try:
        ray.init(address, log_to_driver=False, include_dashboard=False if address is None else None)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"workers.ray: no cluster at {workers.ray}: {str(error).splitlines()[0]}") from None
    total = ray.cluster_resources()
    for name, wanted in (("CPU", workers.cpus), ("GPU", workers.gpus)):
        if total.get(name, 0) < wanted:
            ray.shutdown()
            raise UserError(f"workers.{name.lower()}s: {wanted:g} per job, and the cluster has {total.get(name, 0):g}")
    return ray


def _reach(address: str) -> None:
    """Raise `UserError` if nothing answers at an address; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise UserError(f'workers.ray: expected auto or HOST:PORT, found "{address}"')
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"workers.ray: no cluster at {address}: {error}") from None


def _on_worker(process: Process, folder: str, variables: dict[str, str]) -> tuple[int, str]:
    """Run a script on a node of the cluster.

    Raises:
        UserError: the node does not have the folder.
    """
    if not Path(folder, "benchmarks", "jobs.py").is_file():
        raise UserError(f"workers.ray: node {os.uname().nodename} does not see {folder}: its nodes have to share it")
    os.chdir(folder)
    os.environ.update(variables)
    # A benchmark has one launch, which starts each job once. Ray starts it again only if the node of the first is lost.
    locks.break_foreign(process.folder)
    return launched(process)


def _outcome(ray: Any, reference: Any) -> tuple[int, str]:
    """Return the exit code and the last line of a job that has ended on Ray.

    Raises:
        UserError: see `_on_worker`.
    """
    try:
        code, line = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:  # its worker died more often than `retries` allows
        return 1, str(error).splitlines()[0]
    return code, line


def _stop(ray: Any, references: list[Any]) -> None:
    """Let each run save its checkpoint, and wait until all have ended."""
    for reference in references:
        ray.cancel(reference)  # as Ctrl-C in the worker
    ray.wait(references, num_returns=len(references), timeout=60)
    print("stopped; the same command continues", file=sys.stderr)
