"""The batch script for SLURM, on a cluster of one node that a test starts and ends."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from helpers import FSDP, ROOT, read_result, recipe_environment, run_together
from method_runs import short_command

import psutil
import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel")
STEPS = {"prompt.num_virtual_tokens": 5, "training.steps": 100, "training.eval_every": 5}
PATIENCE = 300  # seconds
CONFIG = """\
ClusterName=test
SlurmctldHost=localhost
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SchedulerParameters=sched_interval=2
NodeName=localhost NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Cluster:
    """A cluster's folder, with its slurm.conf."""

    folder: Path

    def run(self, *words: str, **environment: str) -> str:
        """Run a SLURM program and return its output."""
        variables = recipe_environment() | {"SLURM_CONF": str(self.folder / "slurm.conf")} | environment
        variables["PATH"] = f"{Path(sys.executable).parent}:{variables['PATH']}"
        done = subprocess.run(words, env=variables, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def state(self, job: str) -> str:
        """Return the state of a job."""
        return self.run("scontrol", "show", "job", "-o", job).partition("JobState=")[2].partition(" ")[0]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Start a cluster on this machine, if SLURM is installed and this process may."""
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        pytest.skip(f"{missing[0]} is not installed; on Debian: apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("SLURM's programs are started as root")
    folder = tmp_path / "slurm"
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    (folder / "slurm.conf").write_text(CONFIG.format(folder=folder, cpus=os.cpu_count()), encoding="utf-8")
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    started = []
    try:
        commands = (
            ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *munge],
            ["slurmctld", "-D", "-f", str(folder / "slurm.conf")],
            ["slurmd", "-D", "-f", str(folder / "slurm.conf"), "-N", "localhost"],
        )
        for command in commands:
            with (folder / f"{command[0]}.out").open("w") as log:
                started.append(subprocess.Popen(command, stdout=log, stderr=log))
            time.sleep(1)
        made = Cluster(folder)
        wait_until(lambda: "State=IDLE" in made.run("scontrol", "show", "node", "localhost"), folder)
        yield made
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(timeout=60)


def wait_until(condition: Callable[[], bool], folder: Path) -> None:
    """Wait for a condition; show the logs of a folder if it does not come true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            texts = [f"{file.name}:\n{file.read_text(errors='replace')[-2000:]}" for file in folder.glob("*.*")]
            pytest.fail("\n".join(texts))
        time.sleep(0.1)


@pytest.mark.parametrize("killed", [False, True], ids=["preempted", "killed"])
def test_a_job_that_is_requeued_ends_with_the_same_adapter(
    cluster: Cluster, tiny_model: Path, domain_task: Path, tmp_path: Path, killed: bool
) -> None:
    undisturbed, folder, output = tmp_path / "undisturbed", tmp_path / "run", cluster.folder / "job.out"
    done = run_together(short_command("prompt_tuning", tiny_model, domain_task, undisturbed, **STEPS), **FSDP)
    assert done.returncode == 0, done.stderr
    command = short_command("prompt_tuning", tiny_model, domain_task, folder, **STEPS)
    script = ["--parsable", f"--output={output}", "configs/cluster/slurm.sbatch"]
    job = cluster.run("sbatch", *script, *command, EACH="2", GLOO_SOCKET_IFNAME="lo").strip()
    wait_until((folder / "checkpoints" / "step-000010").exists, cluster.folder)
    if killed:
        ours = [p for p in psutil.process_iter(["cmdline"]) if str(folder) in (p.info["cmdline"] or ())]
        assert ours
        for process in ours:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        wait_until(lambda: cluster.state(job) == "FAILED", cluster.folder)
    cluster.run("scontrol", "requeue", job)
    assert not (folder / "result.json").exists(), "requeued too late for this test"
    wait_until(lambda: cluster.state(job) == "PENDING", cluster.folder)
    cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")  # by default SLURM waits for two minutes
    wait_until(lambda: cluster.state(job) == "COMPLETED", cluster.folder)
    assert "resuming at step" in output.read_text(encoding="utf-8")
    assert read_result(folder)["environment"]["processes"] == 2
    saved, theirs = (load_file(place / "adapter" / "adapter_model.safetensors") for place in (folder, undisturbed))
    assert all(torch.equal(saved[name], theirs[name]) for name in theirs)
