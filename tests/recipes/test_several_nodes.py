"""Runs over two network namespaces, joined by a cable: two machines, as far as launchers and gloo can tell."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from helpers import FSDP, ROOT, losses, read_result, recipe_environment, run_recipe
from method_runs import short_command

import pytest

pytestmark = pytest.mark.slow

STEPS = {"prompt.num_virtual_tokens": 5, "training.steps": 60, "training.eval_every": 5}
PATIENCE = 300  # seconds
HEARTBEAT = 2  # seconds; for torchrun a node is lost after it missed three


@dataclass
class Nodes:
    """Two network namespaces and the processes in them."""

    names: tuple[str, str]
    addresses: tuple[str, str]
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, number: int, command: Sequence[str], **environment: str) -> subprocess.Popen[str]:
        """Start a Python command in a namespace."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.names[number], sys.executable, *command],
            cwd=ROOT,
            env=recipe_environment() | {"GLOO_SOCKET_IFNAME": f"node{number}"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.running.append(process)
        return process

    def fail(self, number: int) -> None:
        """Kill all processes of a namespace, as a machine that fails does."""
        listed = subprocess.run(
            ["ip", "netns", "pids", self.names[number]], capture_output=True, text=True, check=False
        )
        for process in map(int, listed.stdout.split()):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        for started in self.running:
            started.poll()


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """Two nodes, if this process may make network namespaces."""
    ip = shutil.which("ip")
    if ip is None or os.geteuid() != 0:
        pytest.skip("needs the right to make network namespaces, and iproute2")
    made = Nodes((f"sp{os.getpid()}a", f"sp{os.getpid()}b"), ("10.77.0.1", "10.77.0.2"))

    def run(*words: str) -> None:
        subprocess.run([ip, *words], check=True, capture_output=True)

    try:
        for name in made.names:
            run("netns", "add", name)
            run("-n", name, "link", "set", "lo", "up")
        # Made inside a namespace: the names may be taken outside.
        run(
            "-n", made.names[0], "link", "add", "node0", "type", "veth", "peer", "name", "node1", "netns", made.names[1]
        )
        for number, (name, address) in enumerate(zip(made.names, made.addresses, strict=True)):
            run("-n", name, "address", "add", f"{address}/24", "dev", f"node{number}")
            run("-n", name, "link", "set", f"node{number}", "up")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"cannot make network namespaces: {error.stderr.decode().strip()}")
    try:
        yield made
    finally:
        for number, name in enumerate(made.names):
            made.fail(number)
            subprocess.run([ip, "netns", "del", name], check=False, capture_output=True)


Command = Callable[..., list[str]]


@pytest.fixture
def command(tiny_model: Path, domain_task: Path) -> Command:
    """Return the command of a short run into a folder."""
    return lambda folder, *more: short_command("prompt_tuning", tiny_model, domain_task, folder, *more, **STEPS)


@pytest.fixture
def alone(command: Command, tmp_path: Path) -> list[float]:
    """Return the losses of the run in one process."""
    done = run_recipe(command(tmp_path / "alone"))
    assert done.returncode == 0, done.stderr
    return losses(read_result(tmp_path / "alone")["training"]["history"])


def accelerate(nodes: Nodes, number: int, command: list[str]) -> list[str]:
    """Return the command that starts a node's part of a run with accelerate."""
    options = {"num_machines": 2, "num_processes": 2, "machine_rank": number, "main_process_ip": nodes.addresses[0]}
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    file = "configs/accelerate/fsdp2.yaml"
    launch = ["-m", "accelerate.commands.launch", "--config_file", file, "--main_process_port", "29500"]
    return [*launch, *words, *command]


def torchrun(nodes: Nodes, number: int, command: list[str]) -> list[str]:
    """Return the command that starts a node's part of a run with torchrun."""
    options = {"nnodes": 2, "nproc-per-node": 1, "max-restarts": 5, "rdzv-backend": "c10d", "rdzv-id": "softprompts"}
    options |= {"rdzv-endpoint": f"{nodes.addresses[0]}:29501", "local-addr": nodes.addresses[number]}
    # Where a machine's name does not resolve to its address, torchrun cannot find out that it is the first node.
    options |= {"rdzv-conf": f"is_host={number == 0},keep_alive_interval={HEARTBEAT}"}
    return ["-m", "torch.distributed.run", *(f"--{key}={value}" for key, value in options.items()), *command]


def finish(processes: Sequence[subprocess.Popen[str]], folder: Path, alone: list[float]) -> None:
    """Wait for the parts of a run, and compare its losses with those of one process."""
    said = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    record = read_result(folder)
    assert losses(record["training"]["history"]) == pytest.approx(alone, rel=1e-4)
    assert record["environment"]["processes"] == 2
    assert not (folder / ".run.lock").exists()


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a file is there."""
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"no {path.name}"
        time.sleep(0.02)


def test_accelerate_on_two_nodes_is_one_process(
    nodes: Nodes, command: Command, alone: list[float], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    finish([nodes.start(n, accelerate(nodes, n, command(folder))) for n in (0, 1)], folder, alone)


@pytest.mark.parametrize("sharded", [False, True])
def test_torchrun_goes_on_when_a_node_has_failed_and_come_back(
    sharded: bool, nodes: Nodes, command: Command, alone: list[float], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    # With a shared store, a node that is back would wait for an address that the first node sent only once.
    environment = (FSDP if sharded else {}) | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}

    def start(number: int) -> subprocess.Popen[str]:
        return nodes.start(number, torchrun(nodes, number, command(folder, "--resume")), **environment)

    first, second = start(0), start(1)
    wait_for(folder / "checkpoints" / "step-000010", first)
    nodes.fail(1)
    second.wait(timeout=60)
    time.sleep(5 * HEARTBEAT)  # a machine does not come back sooner; until then torchrun counts on the lost one
    assert not (folder / "result.json").exists(), "killed too late for this test"
    finish([first, start(1)], folder, alone)
