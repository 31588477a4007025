"""The operations of a run and of its base model, and their share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from made_governance import BASE, Made, edit
from softprompts.config.tools import GovernanceConfig
from softprompts.errors import UserError
from softprompts.governance.compute import Compute, compute_of
from softprompts.governance.documents import share_text
from softprompts.governance.evidence import read_run
from softprompts.governance.law import read_law
from softprompts.governance.record import write_governance

import pytest

TOTAL, TRAINED = 134_526_528, 11_520  # of made_result
TOKENS = 1000 + 10 * 8 * 20  # of the rows, and virtual tokens before each
BASE_FLOP = 6 * 134_515_008 * 2e12


def compute(made: Made, home: Path, **changes: Any) -> Compute:
    return compute_of(read_run("governance.run", str(home)), read_law(), made.asked(home, **changes))


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def test_a_frozen_weight_costs_4_and_a_trained_one_6_operations_per_token(made: Made) -> None:
    found = compute(made, made.run())
    assert found.flop == (4 * TOTAL + 2 * TRAINED) * TOKENS
    full = {"total": 1000, "trainable": 1000, "saved": 1000}
    assert compute(made, made.run("full", parameters=full)).flop == 6 * 1000 * TOKENS


def test_the_share_of_the_included_model_is_that_of_its_paper(made: Made) -> None:
    found = compute(made, made.run())
    assert found.base == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert found.base_flop == pytest.approx(BASE_FLOP)
    assert found.base_source == "smollm2"
    assert found.share == pytest.approx(found.flop / BASE_FLOP)  # type: ignore[operator]
    assert found.limit == pytest.approx(BASE_FLOP / 3)
    assert (found.verdict, found.base_is_general) == ("below", False)


def test_another_base_is_compared_with_what_is_given_or_the_substitute(made: Made) -> None:
    home = made.run(model={"name_or_path": "org/other", "quantization": "none"})
    unknown = compute(made, home)
    assert (unknown.base_flop, unknown.share, unknown.base_is_general) == (None, None, None)
    assert unknown.limit == pytest.approx(1e23 / 3)
    assert "not known" in unknown.limit_formula
    assert compute(made, home, base_tokens=1e12).base_flop == pytest.approx(6 * TOTAL * 1e12)
    given = compute(made, home, base_flop=2e23)
    assert (given.base_flop, given.base_is_general, given.limit) == (2e23, True, pytest.approx(2e23 / 3))


def test_more_than_a_third_is_above(made: Made) -> None:
    home = made.run()
    flop = compute(made, home).flop
    assert flop
    assert compute(made, home, base_flop=3.01 * flop).verdict == "below"
    assert compute(made, home, base_flop=2.99 * flop).verdict == "above"


def test_sweeps_teachers_and_4_bit_weights_count(made: Made) -> None:
    once = compute(made, made.run()).flop
    assert once
    home = made.run("sweep", notes={"candidates": [{"steps": 10}, {"steps": 5}]})
    assert compute(made, home).flop == pytest.approx(1.5 * once)
    edit(home / "result.json", lambda tree: tree["settings"]["training"].update(teacher="runs/other"))
    assert compute(made, home).flop == pytest.approx(1.5 * once + 2 * TOTAL * TOKENS)
    four = made.run("nf4", model={"name_or_path": "org/other", "quantization": "nf4"})
    assert compute(made, four).flop == (8 * TOTAL + 2 * TRAINED) * TOKENS


def test_a_recomputed_forward_pass_costs_2_more(made: Made) -> None:
    once = compute(made, made.run()).flop
    assert once
    home = made.run("again", model={"name_or_path": BASE, "gradient_checkpointing": True})
    found = compute(made, home)
    assert found.flop == (6 * TOTAL + 2 * TRAINED) * TOKENS
    assert found.formula.startswith(f"(6 x {TOTAL:,} parameters")
    assert found.upper_bound
    # It was switched off on resume; the steps before had it.
    resumed = [{"key": "model.gradient_checkpointing", "was": True, "is": False}]
    assert compute(made, made.run("resumed", notes={"resumed": resumed})).flop == found.flop


def test_a_teacher_of_weight_0_does_not_run(made: Made) -> None:
    home = made.run()
    once = compute(made, home).flop
    assert once
    taught = {"teacher": None, "teacher_context": "shots:8", "teacher_weight": 0.5, "teacher_temperature": 1.0}
    edit(home / "result.json", lambda tree: tree["settings"]["training"].update(taught))
    assert compute(made, home).flop == once + 2 * TOTAL * TOKENS
    edit(home / "result.json", lambda tree: tree["settings"]["training"].update(teacher_weight=0))
    assert compute(made, home).flop == once


def test_at_most_is_said_only_of_an_upper_bound(made: Made) -> None:
    notes: dict[str, Any] = {"kind": "encoder"}
    runs = {
        "packed": (made.run("packed"), True),
        "stock": (made.run("stock", model={"name_or_path": BASE, "engine": "stock"}), False),
        "encoder": (made.run("encoder", notes=notes), False),
        "taught": (made.run("taught"), False),
    }
    edit(runs["taught"][0] / "result.json", lambda tree: tree["settings"]["training"].update(teacher="runs/large"))
    for home, bound in runs.values():
        assert compute(made, home).upper_bound == bound
        folder = write_governance(made.asked(home)).parent
        texts = [(folder / name).read_text(encoding="utf-8") for name in ("governance.html", "model_card.md")]
        for text in texts:
            assert ("at most" in text.lower().replace("validation and test had at most", "")) == bound


def test_a_run_that_trains_nothing_costs_nothing_and_an_old_record_is_unknown(made: Made) -> None:
    nothing = compute(made, made.run(training={}))
    assert (nothing.flop, nothing.share, nothing.verdict) == (0.0, 0.0, "below")
    old = compute(made, made.run("old", training={"best_step": 3}))
    assert (old.flop, old.share, old.verdict) == (None, None, "unknown")


def test_virtual_tokens_are_those_of_the_adapter_else_of_the_settings(made: Made) -> None:
    home = made.run()
    config = home / "adapter" / "adapter_config.json"
    config.write_text('{"num_virtual_tokens": 50}')
    assert read_run("governance.run", str(home)).virtual_tokens == 50
    config.write_text("damaged")
    assert read_run("governance.run", str(home)).virtual_tokens == 20


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base_tokens": 0}, "governance.base_tokens: expected a number above 0, found 0"),
        ({"base_flop": float("inf")}, "governance.base_flop: expected a number above 0, found inf"),
        ({"base_flop": float("nan")}, "governance.base_flop: expected a number above 0, found nan"),
        ({"output_dir": " "}, "governance.output_dir: expected a path, found an empty text"),
        ({"base_flop": 1e20, "base_tokens": 1e9}, "cannot be combined with governance.base_flop"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        GovernanceConfig(**({"run": "run", "plan": "plan"} | changes))


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0.0 %"), (0.8, "80.0 %"), (1e-4, "0.01 %"), (1.3e-9, "0.00000013 %"), (9.4e-9, "0.00000094 %")],
)
def test_a_tiny_share_is_written_out(share: float, text: str) -> None:
    assert share_text(share) == text
