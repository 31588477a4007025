"""The benchmark for a GPU runs every part on a CPU with tiny sizes; without a GPU the program is one line."""

from __future__ import annotations

from importlib.util import find_spec

from benchmarks.gpu import __main__ as program
from benchmarks.gpu.attention import KERNELS, Shape, attention
from benchmarks.gpu.training import Sizes, bank, compiled, steps

import pytest
import torch

CPU = torch.device("cpu")
TINY = Sizes("tiny", 2, 32, 4, 2, 64, batch=4, steps=1, prompts=2)
SIDES = ["engine", "peft", pytest.param("trl", marks=pytest.mark.skipif(not find_spec("trl"), reason="no TRL"))]


def test_every_kernel_is_timed_or_has_a_reason() -> None:
    found = attention(Shape(texts=2, prompt=3, length=8, heads=4, groups=2, size=16, rounds=1), CPU)
    for way in ("repeated heads", "enable_gqa"):
        assert set(found[way]) == {"PyTorch's choice", *(kernel.name for kernel in KERNELS)}
        assert found[way]["MATH"] > 0
        assert isinstance(found[way]["CUDNN_ATTENTION"], str), "there is none on a CPU"
    assert found["FlexAttention"]


@pytest.mark.bundled
@pytest.mark.parametrize("side", SIDES)
def test_the_sides_train_alike(side: str) -> None:
    found = steps(TINY, CPU, side)
    assert found["seconds_per_step"] > 0
    assert 0 < found["share_of_product_rate"] < 10
    assert found["losses"][0] == pytest.approx(steps(TINY, CPU, "engine")["losses"][0], rel=2e-2)


@pytest.mark.slow
@pytest.mark.bundled
def test_a_bank_and_compiled_layers_are_timed() -> None:
    assert {"bank", "one_by_one"} <= bank(TINY, CPU).keys()
    found = compiled(TINY, CPU, backend="eager")
    assert found["eager"] > 0
    assert found["compiled"] > 0
    assert compiled(TINY, CPU, backend="nothing")["compiled"].startswith("InvalidBackend")


def test_without_a_gpu_there_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert program.main([]) == 2
    assert capsys.readouterr().err == "error: no CUDA device; this benchmark measures a GPU\n"
    assert program.main(["banks"]) == 2
    assert capsys.readouterr().err == 'error: no part "banks" (did you mean "bank"?)\n'
