"""Write README's generated parts from the records: the demo's output, three findings, the table of results."""

from __future__ import annotations

from benchmarks.text import put
from scripts.build_docs.pages import ROOT
from scripts.build_docs.records import RESULTS, shipped, speeds
from scripts.build_docs.results import overview
from softprompts.methods.catalog import METHODS
from softprompts.reports.tables import size
from softprompts.runs.record import Result

README = ROOT / "README.md"
PRINTED = RESULTS / "tasks" / "demo" / "printed.md"


def parts() -> dict[str, str]:
    """Return the generated parts by their marks."""
    printed = PRINTED.read_text(encoding="utf-8").rstrip()
    return {"findings": findings(), "demo": f"```text\n{printed}\n```", "results": overview()}


def findings() -> str:
    """Return three findings, each with a link to its record."""
    return "\n".join([_small(), _fast(), _close()])


def _small() -> str:
    soft, lora = (shipped("sentiment")[name] for name in ("prompt_tuning", "lora"))
    return (
        f"- **Small.** On the sentiment task a soft prompt trains {soft.parameters['trainable']:,} parameters "
        f"({size(soft.cost['adapter_bytes'])}); LoRA trains {lora.parameters['trainable']:,} "
        f"({size(lora.cost['adapter_bytes'])}). Test accuracy, 95 % interval: {_score(soft)} and {_score(lora)} "
        "([records](results/tasks/sentiment))."
    )


def _fast() -> str:
    found = {record["method"]: record["ratio"] for record in speeds()}
    short, long = found["prompt20"], found["prompt100"]
    rest = [found[name]["peft"] for name in found if name not in ("prompt20", "prompt100")]
    return (
        f"- **Fast to train.** A step of prompt tuning with 20 virtual tokens is {short['peft']:.1f} times as fast as "
        f"PEFT's with `Trainer`, and {short['trl']:.1f} times as fast as TRL's; with 100 tokens {long['peft']:.1f} and "
        f"{long['trl']:.1f} times. Other methods are {min(rest):.1f} to {max(rest):.1f} times as fast as PEFT's "
        "([records](results/throughput), 2 CPU cores)."
    )


def _close() -> str:
    runs = [shipped("home_commands")[name] for name in ("prefix_tuning", "lora")]
    reached = ", ".join(
        f"{METHODS[run.recipe].label} {_score(run)} with {size(run.cost['adapter_bytes'])}" for run in runs
    )
    return (
        f"- **Close on strict output.** Exact JSON commands on the home_commands task: {reached}. These are single "
        "runs of the shipped configs, with intervals over test rows ([records](results/tasks/home_commands))."
    )


def _score(result: Result) -> str:
    first = next(iter(result.metrics.values()))
    return f"{100 * first.value:.1f} % ({100 * first.low:.1f} to {100 * first.high:.1f})"


def main() -> None:
    """Write every part."""
    for mark, made in parts().items():
        put(README, mark, made)


if __name__ == "__main__":
    main()
