"""The faults. Each function runs one trial, and returns how often the fault happened and the outcome."""

from __future__ import annotations

import math
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.chaos.launches import Hook
from benchmarks.chaos.subject import STEPS, left_by
from benchmarks.chaos.trial import BrokenError, Trial, mount, stops_after

from safetensors.torch import load_file, save_file

Tried = tuple[int, str]
KILLS = 5  # per run, if it is long enough
# Last words of Rust libraries and of the dynamic loader, which end a process without memory and raise nothing.
ABORTS = ("memory allocation of", "cannot allocate memory for thread-local data")
ARENA = 2**20  # bytes that Python takes at once for small objects
SAME = "resumed; bit-identical to an undisturbed run"
ENDED = "the run had ended already"
FILES = ("state.json", "trainable.safetensors", "optimizer.safetensors", "SHA256SUMS")


@dataclass(frozen=True)
class Fault:
    """A fault.

    name: its name in the table; wanted: number of its trials; trial: the function that runs one trial; way: name of the
    way of launching its runs.
    """

    name: str
    wanted: int
    trial: Callable[[Trial], Tried]
    way: str = "single"


def kill(trial: Trial) -> Tried:
    """Kill -9 one process, or all at once, at random moments; restart it each time."""
    more: list[str] = []
    kills = 0
    while kills < KILLS:
        started = trial.start(*more)
        if not trial.moment(started):
            break
        started.send(signal.SIGKILL, trial.rng.choice([None, *range(len(started.pids))]))
        trial.end(started)
        kills, more = kills + 1, ["--resume"]
    trial.finish()
    return kills, SAME


def terminate(trial: Trial) -> Tried:
    """Send SIGTERM to all processes at a random moment."""
    started = trial.start()
    if not trial.moment(started):
        return 1, ENDED
    started.send(signal.SIGTERM)
    trial.end(started)
    if any("Traceback" in text for text in started.said):
        raise BrokenError(f"a traceback: {started.said}")
    trial.finish()
    return 1, SAME


def terminate_test(trial: Trial) -> Tried:
    """Send SIGTERM while the test rows are scored."""
    started = trial.start()
    while not (trial.output / "adapter" / "adapter_model.safetensors").is_file() and not started.poll():
        time.sleep(0.001)
    started.wait(trial.rng.uniform(0.0, 0.3))
    started.send(signal.SIGTERM)
    trial.end(started)
    if not any("stopped by SIGTERM while testing; continue with --resume" in text for text in started.said):
        trial.finish()
        return 1, "came before or after the scoring; bit-identical to an undisturbed run"
    if started.code != 128 + signal.SIGTERM:
        raise BrokenError(f"exit code {started.code}")
    trial.finish()
    return 1, "stopped between two batches; bit-identical to an undisturbed run"


def full_disk(trial: Trial, what: str) -> Tried:
    """Make the disk full after a number of pages or files."""
    most = trial.undisturbed["single"].pages + 8
    limit = math.ceil((trial.number + 1) / trial.wanted * most)
    # A tmpfs uses one file for its root, and needs at least one page more.
    options = f"size={(limit + 1) * 4096}" if what == "space" else f"nr_inodes={limit + 1}"
    with trial.mounted(options) as place:
        started = trial.run()
        if not started.code:
            trial.compare()
            return 1, "enough room"
        trial.refused(started, "disk is full", "No space left on device")
        if not mount("-o", "remount,size=64m,nr_inodes=10000", str(place)):
            raise RuntimeError("cannot be mounted again")
        trial.finish()
    return 1, f"one line; {SAME}"


def read_only(trial: Trial) -> Tried:
    """Make the output folder read-only, before the run or at a random moment."""
    trial.flags["run.trackers"] = "[]"  # a tracker's open file would keep the file system writable
    before = trial.number % 3 == 0
    with trial.mounted("size=64m") as place:
        if before and not mount("-o", "remount,ro", str(place)):
            raise RuntimeError("cannot be mounted read-only")
        started = trial.start()
        if not before and trial.moment(started):
            while not mount("-o", "remount,ro", str(place)) and not started.poll():
                time.sleep(0.001)
        trial.end(started)
        mount("-o", "remount,rw", str(place))
        if not started.code:
            return 1, ENDED
        trial.refused(started, "Read-only file system")
        trial.finish()
    return 1, f"one line; {SAME}"


def full_memory(trial: Trial) -> Tried:
    """Limit the memory that a run can address in addition to its libraries."""
    more = int(2 ** trial.rng.uniform(0, 9) * 2**20)

    def hook() -> None:
        now = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + more, now + more))

    started = trial.start(hook=hook)
    if not started.wait() and _without_memory(started.pids[0]):
        started.end()
        trial.finish()
        return 1, f"Python itself did not end (python/cpython#132508), and was killed; {SAME}"
    trial.end(started)
    if not started.code:
        trial.compare()
        return 1, "enough memory"
    if any(words in text for text in started.said for words in ABORTS):
        trial.finish()
        return 1, f"a library or the loader ended the process itself; {SAME}"
    trial.refused(started, "memory")
    trial.finish()
    return 1, f"one line; {SAME}"


def _without_memory(pid: int) -> bool:
    """Return whether a process with a limit has no room for Python's next block of small objects.

    Python 3.11 may then unwind one exception without end, because it needs such an object to do it.
    """
    limit = next(
        int(line.split()[3])
        for line in Path(f"/proc/{pid}/limits").read_text(encoding="utf-8").splitlines()
        if line.startswith("Max address space")
    )
    used = int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
    return used + ARENA > limit


def damage(trial: Trial) -> Tried:
    """Cut a file of a checkpoint short, flip one of its bits, or delete it."""
    started = trial.run(hook=stops_after(trial.rng.randrange(7, STEPS)))
    if started.code != 128 + signal.SIGTERM:
        raise BrokenError(f"exit code {started.code}")
    file = max((trial.output / "checkpoints").glob("step-*")) / FILES[trial.number % len(FILES)]
    how = ("cut", "flipped", "missing")[trial.number // len(FILES) % 3]
    data = bytearray(file.read_bytes())
    if how == "missing":
        file.unlink()
    else:
        at = trial.rng.randrange(len(data))
        data[at] ^= 1 << trial.rng.randrange(8)
        file.write_bytes(bytes(data) if how == "flipped" else bytes(data[:at]))
    finished = trial.finish()
    # Other bytes may contain the same checksums, for example with another line end.
    if file.name != "SHA256SUMS" and not any("an earlier checkpoint: " in text for text in finished.said):
        raise BrokenError(f"not said: {finished.said}")
    return 1, "an earlier checkpoint was used and named; bit-identical to an undisturbed run"


def two_runs(trial: Trial) -> Tried:
    """Start two runs into one folder."""
    more = ["--resume"] * (trial.number % 2)
    both = [trial.start(*more), trial.start(*more)]
    for started in both:
        trial.end(started)
    codes = sorted(started.code for started in both)
    if more and codes == [0, 0]:  # the second waits some seconds, and the first ends meanwhile
        trial.compare()
        return 1, "the second finds a finished run, and leaves it; bit-identical to an undisturbed run"
    if codes != [0, 2]:
        raise BrokenError(f"exit codes {codes}: {[started.said for started in both]}")
    trial.refused(next(started for started in both if started.code), "run.output_dir: ")
    trial.compare()
    return 1, "the second is refused in one line; the first is bit-identical to an undisturbed run"


def clock(trial: Trial) -> Tried:
    """Set the clock back by a year during a run and before its resumption, and give all files other times."""
    after = trial.rng.randrange(200)

    def jumps() -> None:
        real, calls = time.time, []

        def earlier() -> float:
            calls.append(0)
            return real() - (366 * 86400 if len(calls) > after else 0)

        time.time, time.time_ns = earlier, lambda: int(earlier() * 1e9)

    def stopped() -> None:
        jumps()
        stops_after(trial.rng.randrange(3, STEPS))()

    trial.run(hook=stopped)
    now = time.time()
    for file in trial.output.rglob("*"):
        when = now + trial.rng.uniform(-1, 1) * 10 * 366 * 86400
        os.utime(file, (when, when))
    started = trial.run("--resume", hook=jumps)
    if started.code:
        raise BrokenError(f"exit code {started.code}: {started.said}")
    trial.compare()
    return 1, SAME


def hang(trial: Trial) -> Tried:
    """Stop one process of two, so that it does not respond."""
    trial.flags["run.process_timeout"] = 4
    started = trial.start()
    while not (trial.output / "config.json").is_file() and not started.poll():
        time.sleep(0.001)
    rank = trial.rng.randrange(2)
    # Most of the time is for the launch.
    if not trial.moment(started, share=0.15 if started.launcher else 0.7):
        return 1, ENDED
    started.send(signal.SIGSTOP, rank)
    others = [pid for pid in started.pids if pid != started.pids[rank]]
    until = time.monotonic() + 60
    while not started.poll() and not set(others) <= set(started.codes) and time.monotonic() < until:
        time.sleep(0.01)
    if not started.launcher:  # a launcher would kill it
        started.send(signal.SIGKILL, rank)
        started.wait()
    trial.end(started)
    if left_by(trial.output):
        return 1, ENDED
    trial.refused(started, f"process {rank} of 2 does not respond")
    trial.finish()
    return 1, f"one line names the process; {SAME}"


def nan(trial: Trial) -> Tried:
    """Set the soft prompt to NaN at a random step, as broken memory may do."""
    poison = _poisoned(trial.rng.randrange(6, STEPS))
    if trial.number % 2 == 0:
        trial.refused(trial.run(hook=poison), "became nan at step")
        trial.finish()
        return 1, f"one line; {SAME}"
    trial.flags["training.on_nan"] = 0.5
    if trial.run(hook=poison).code:
        raise BrokenError("it did not go back")
    left = left_by(trial.output)
    shutil.rmtree(trial.output)
    started = trial.start(hook=poison)
    if trial.moment(started):
        started.send(signal.SIGKILL)
    trial.end(started)
    if trial.run("--resume", hook=poison).code:
        raise BrokenError("it did not go back when resumed")
    trial.compare(left)
    return 1, "went back once, by `training.on_nan`; killed and resumed, bit-identical to the run that was not killed"


def _poisoned(step: int) -> Hook:
    def hook() -> None:
        from softprompts.training import loop

        import torch

        original = loop.update

        def update(wrapped, batches, accelerator):  # type: ignore[no-untyped-def]
            (candidate, _), *_ = batches
            if candidate.progress.step + 1 == step and not candidate.progress.rollbacks:
                with torch.no_grad():
                    candidate.parameters[0].fill_(math.nan)
            return original(wrapped, batches, accelerator)

        loop.update = update

    return hook


def other_base(trial: Trial) -> Tried:
    """Change a weight of the base model between a run and its resumption."""
    model = trial.folder / "model"
    shutil.copytree(trial.subject / "model", model)
    trial.flags["model.name_or_path"] = model
    trial.run(hook=stops_after(trial.rng.randrange(2, STEPS)))
    weights, kept = model / "model.safetensors", (model / "model.safetensors").read_bytes()
    tensors = load_file(weights)
    name = trial.rng.choice(sorted(tensors))
    tensors[name].view(-1)[trial.rng.randrange(tensors[name].numel())] += 0.25
    save_file(tensors, weights, {"format": "pt"})
    trial.refused(trial.run("--resume"), "has other weights")
    weights.write_bytes(kept)
    trial.finish()
    return 1, "refused in one line; with the weights put back, bit-identical to an undisturbed run"


FAULTS = {
    "kill_single": Fault("`kill -9` at a random moment, one process", 50, kill),
    "kill_two": Fault("`kill -9` at a random moment, two processes: one of them, or both", 50, kill, "two"),
    "kill_launched": Fault("the same under `accelerate launch`", 10, kill, "launched"),
    "kill_sharded": Fault("the same, with a base model sharded by FSDP 2", 10, kill, "sharded"),
    "sigterm_single": Fault("SIGTERM at a random moment, one process", 15, terminate),
    "sigterm_two": Fault("SIGTERM at a random moment, two processes", 15, terminate, "two"),
    "sigterm_test": Fault("SIGTERM while the test rows are scored", 15, terminate_test),
    "disk_space": Fault(
        "disk full, after each number of pages that a run writes", 60, partial(full_disk, what="space")
    ),
    "disk_files": Fault("disk full, after each number of files", 30, partial(full_disk, what="files")),
    "read_only": Fault("output folder read-only, from the start or at a random moment", 15, read_only),
    "memory": Fault("memory full: a random limit on addresses", 30, full_memory),
    "damage": Fault("checkpoint cut short, with a flipped bit, or missing a file", 36, damage),
    "two_runs": Fault("two runs started into one folder", 10, two_runs),
    "clock": Fault("clock jumps back by a year; times of files at random", 10, clock),
    "hang_two": Fault("one of two processes hangs", 10, hang, "two"),
    "hang_launched": Fault("the same under `accelerate launch`", 4, hang, "launched"),
    "nan": Fault("loss becomes NaN at a random step", 12, nan),
    "other_base": Fault("base model changed between run and resumption", 6, other_base),
}
