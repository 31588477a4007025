"""Full memory is one line that names the setting to lower; all other errors are unchanged."""

from __future__ import annotations

import errno
from typing import Any

from helpers import Build, run_training
from softprompts.engine.forward import Scores
from softprompts.errors import UserError
from softprompts.evaluation import predict as evaluation_module
from softprompts.system.memory import is_out_of_memory, one_line_if_memory_is_full

import numpy
import pytest
import torch

CUBLAS = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"


def cpu_is_full(*_: Any, **__: Any) -> Any:
    """Request more memory from the CPU's allocator than the machine has."""
    return torch.empty(10**16)


def numpy_is_full() -> Any:
    return numpy.empty(10**16)


def error_of(make: Any) -> BaseException:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        make()
    return caught.value


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 17.99 GB)"), True),
        (RuntimeError(CUBLAS), True),
        (MemoryError(), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("can't start new thread"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
        (ValueError("a text that is out of memory"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_c1_4_full_memory_is_told_from_other_errors(error: BaseException, full: bool) -> None:
    assert is_out_of_memory(error) is full


def test_c1_4_the_real_errors_of_a_full_machine_are_known() -> None:
    assert is_out_of_memory(error_of(cpu_is_full))
    assert is_out_of_memory(error_of(numpy_is_full))


@pytest.mark.parametrize("rank", [None, "0", "3"])
def test_c1_4_another_process_than_the_first_says_it_by_itself(
    rank: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank:
        monkeypatch.setenv("LOCAL_RANK", rank)
    with (
        pytest.raises(UserError, match=r"^out of memory in a test: buy some$"),
        one_line_if_memory_is_full("in a test", "buy some"),
    ):
        cpu_is_full()
    said = "error: process 3: out of memory in a test: buy some\n" if rank == "3" else ""
    assert capsys.readouterr().err == said
    with pytest.raises(RuntimeError, match="something else"), one_line_if_memory_is_full("in a test", "buy some"):
        raise RuntimeError("something else")


@pytest.mark.parametrize(
    ("tokens", "advice"),
    [
        (None, r"8 rows had \d+ tokens; set training.micro_batch_tokens \(now not set\) to fewer"),
        (100, r"\d rows had \d+ tokens; set training.micro_batch_tokens \(now 100\) to fewer"),
        (
            1,
            (
                r"training.micro_batch_tokens cannot split a single row, and this one has \d+ tokens; "
                r"lower task.max_length"
            ),
        ),
    ],
)
def test_c1_4_training_names_its_setting(
    make: Build, tokens: int | None, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = make(micro_batch_tokens=tokens)
    original = Scores.nll
    monkeypatch.setattr(Scores, "nll", lambda s: cpu_is_full() if s.logits.requires_grad else original(s))
    with pytest.raises(UserError, match=f"^out of memory in an update: {advice}"):
        run_training(parts)


def test_c1_4_validation_names_its_setting(make: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = make()
    monkeypatch.setattr(evaluation_module, "choice_scores", cpu_is_full)
    with pytest.raises(UserError, match=r"^out of memory while validating: lower evaluation.batch_size \(now 16\)$"):
        run_training(parts)


def test_c1_4_other_errors_of_an_update_stay_what_they_are(make: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = make()
    original = Scores.nll
    monkeypatch.setattr(Scores, "nll", lambda s: s.logits @ s.logits if s.logits.requires_grad else original(s))
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"):
        run_training(parts)
