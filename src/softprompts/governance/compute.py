"""The operations of a run, and their share of the training of its base model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from softprompts.config.tools import GovernanceConfig
from softprompts.governance.evidence import Evidence
from softprompts.governance.law import Law

LEFT_OUT = (
    "Validation and test passes train nothing, and are left out.",
    "Padding is not recorded, and is left out. Only PEFT's own forward pass reads any.",
    "Steps that a killed run repeated are not recorded, and are left out.",
    "Attention grows with the length of a row, and is left out, as in the rule.",
    "Other runs count as well if this one continues them, or if they helped to choose it. Add their share by hand.",
)


@dataclass(frozen=True)
class Compute:
    """Operations (FLOP) of a run and of its base model.

    Args:
        flop: in this run; None if the record has no number of tokens.
        upper_bound: whether the run needed no more, so far as operations are counted. A teacher may be larger than the
            base model or read more tokens, and padding is not recorded.
        formula: how they were computed.
        notes: what is counted and what is not.
        base: name of the base model.
        base_flop: of its training; None if unknown.
        base_formula: how they were computed, or where the number comes from.
        base_source: the source of the number, in `law.yaml`; None if a person gave it, or nobody.
        share: of the base model's; None without one of the two.
        limit: operations from which on the criterion is met.
        limit_formula: how the limit follows.
        verdict: "below" or "above" the limit; "unknown" without a number of tokens.
        base_is_general: whether the base model is above the indicative criterion of a general-purpose model; None if
            its training is unknown.
    """

    flop: float | None
    upper_bound: bool
    formula: str
    notes: Sequence[str]
    base: str
    base_flop: float | None
    base_formula: str
    base_source: str | None
    share: float | None
    limit: float
    limit_formula: str
    verdict: str
    base_is_general: bool | None


def compute_of(evidence: Evidence, law: Law, config: GovernanceConfig) -> Compute:
    """Return the operations of a run, and their share of the base model's training."""
    flop, formula, notes = _of_run(evidence)
    base_flop, base_formula, source, omits = _of_base(evidence, law, config)
    third, general = law.thresholds["modifier_share"].value, law.thresholds["gpai_flop"].value
    limit = (base_flop or general) * third
    limit_formula = (
        f"a third of the base model's {scientific(base_flop)} FLOP"
        if base_flop
        else f"a third of {scientific(general)} FLOP, since the base model's training compute is not known"
    )
    return Compute(
        flop=flop,
        upper_bound=evidence.teacher is None and not _pads(evidence),
        formula=formula,
        notes=[*notes, *LEFT_OUT, *([omits] if omits else [])],
        base=evidence.base,
        base_flop=base_flop,
        base_formula=base_formula,
        base_source=source,
        share=flop / base_flop if flop is not None and base_flop else None,
        limit=limit,
        limit_formula=limit_formula,
        verdict="unknown" if flop is None else "above" if flop > limit else "below",
        base_is_general=base_flop > general if base_flop else None,
    )


def scientific(number: float) -> str:
    """Return a number as text with three digits: 1.61e+21."""
    return f"{number:.2e}"


def _of_run(evidence: Evidence) -> tuple[float | None, str, list[str]]:
    """Return the operations of the run, the formula with its numbers, and what it counts."""
    result, training = evidence.result, evidence.result.training
    if not training:
        return 0.0, "0: nothing was trained in this run", []
    if "tokens" not in training or "step" not in training:
        return None, "unknown: the record has no number of training tokens", []
    parameters, trainable = _parameters(evidence), result.parameters["trainable"]
    rows = training["step"] * result.settings.get("training", {}).get("batch_size", 1)
    tokens = training["tokens"] + rows * evidence.virtual_tokens
    notes = [
        f"{training['tokens']:,} tokens of rows were recorded.",
        f"{evidence.virtual_tokens} virtual tokens are added for each of {rows:,} rows.",
        "The packed engine computes virtual tokens once per batch, and needs less.",
        "A frozen weight costs 4 operations per token: 2 forward, and 2 for the gradient of its input (flop_rule).",
        "A trained weight costs 2 more, for its own gradient.",
    ]
    each = 4
    if _ever(evidence, "gradient_checkpointing", True):
        each = 6
        notes.append("Gradient checkpointing computes the forward pass twice, so each weight costs 2 more.")
    formula = f"({each} x {parameters:,} parameters + 2 x {trainable:,} trained) x {tokens:,} tokens"
    flop = float(each * parameters + 2 * trainable) * tokens
    if factor := _candidates(evidence):
        flop *= factor
        formula += f" x {factor:.4g} for all candidates of the sweep, by their steps"
    if evidence.teacher:
        flop += 2.0 * parameters * tokens
        formula += f" + 2 x {parameters:,} x {tokens:,} for the teacher"
        notes.append("The teacher's forward passes count as if it had the base model's size and read the same tokens.")
        notes.append("A larger teacher, or training.teacher_context, needs more, so this is no upper bound.")
    return flop, formula, notes


def _ever(evidence: Evidence, name: str, value: object) -> bool:
    """Return whether a setting of the model had a value in any part of the run, since it may change on resume."""
    changed = [c["was"] for c in evidence.result.notes.get("resumed", []) if c["key"] == f"model.{name}"]
    return value in (evidence.result.settings["model"].get(name), *changed)


def _pads(evidence: Evidence) -> bool:
    """Return whether the run read padding: PEFT's own forward pass does, which is that of all but decoders."""
    return _ever(evidence, "engine", "stock") or evidence.result.notes.get("kind", "decoder") != "decoder"


def _parameters(evidence: Evidence) -> int:
    """Return the number of parameters; 4-bit weights are stored two in one number, and counted as such."""
    total = evidence.result.parameters["total"]
    return 2 * total if evidence.result.settings["model"].get("quantization") == "nf4" else total


def _candidates(evidence: Evidence) -> float | None:
    """Return the steps of all candidates of a sweep over those of the kept one; None without a sweep."""
    steps = [c.get("steps", 0) for c in evidence.result.notes.get("candidates", [])]
    kept = evidence.result.training["step"]
    return sum(steps) / kept if any(steps) and kept else None


def _of_base(evidence: Evidence, law: Law, config: GovernanceConfig) -> tuple[float | None, str, str | None, str]:
    """Return the operations of the base model's training, how they follow, their source, and what is missing."""
    if config.base_flop is not None:
        return config.base_flop, "given as governance.base_flop", None, ""
    parameters = _parameters(evidence)
    if config.base_tokens is not None:
        flop = 6.0 * parameters * config.base_tokens
        formula = f"6 x {parameters:,} parameters x {scientific(config.base_tokens)} tokens (governance.base_tokens)"
        return flop, formula, None, ""
    if known := law.bases.get(evidence.base):
        formula = f"6 x {known.parameters:,} parameters x {scientific(known.tokens)} tokens"
        return 6.0 * known.parameters * known.tokens, formula, known.source, known.omits
    return None, "unknown; give governance.base_tokens or governance.base_flop", None, ""
