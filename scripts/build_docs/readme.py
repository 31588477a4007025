"""Write README's generated parts from the records: the demo's output, three findings, the table of results."""

from __future__ import annotations

from benchmarks.report.tables import metric
from benchmarks.text import put
from scripts.build_docs.pages import ROOT
from scripts.build_docs.records import RESULTS, runs, shipped, speeds
from scripts.build_docs.results import overview
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
    seeds = [metric("accuracy").spread(runs().loc["sentiment"].loc[[run.recipe]]) for run in (soft, lora)]
    return (
        f"- **Small.** On sentiment, prompt tuning trains {soft.parameters['trainable']:,} parameters "
        f"({size(soft.cost['adapter_bytes'])} on disk), and LoRA {lora.parameters['trainable']:,} "
        f"({size(lora.cost['adapter_bytes'])}). After equal short training, their test accuracies over three seeds are "
        f"{seeds[0]} % and {seeds[1]} %. One longer run of each, with its own config, gives {_score(soft)} and "
        f"{_score(lora)}; the 95 % interval is in brackets ([records](results/tasks/sentiment))."
    )


def _fast() -> str:
    found = {record["method"]: record["ratio"] for record in speeds()}
    short, long = found["prompt20"], found["prompt100"]
    rest = [found[name]["peft"] for name in found if name not in ("prompt20", "prompt100")]
    return (
        "- **Fast on a CPU.** This project's engine makes a step of prompt tuning with 20 virtual tokens "
        f"{short['peft']:.1f} times as fast as PEFT's own forward pass under Transformers' `Trainer`. It is "
        f"{short['trl']:.1f} times as fast as TRL. With 100 virtual tokens the factors are {long['peft']:.1f} and "
        f"{long['trl']:.1f}. For prefix tuning, P-tuning, LoRA and full fine-tuning they are {min(rest):.1f} to "
        f"{max(rest):.1f}, against `Trainer`. Measured in float32, with batches of 16, on 2 CPU cores "
        "([records](results/throughput))."
    )


def _close() -> str:
    prefix, lora = (shipped("home_commands")[name] for name in ("prefix_tuning", "lora"))
    short = [metric("exact_match").spread(runs().loc["home_commands"].loc[[run.recipe]]) for run in (prefix, lora)]
    return (
        "- **JSON is hard for prompt tuning.** On home_commands, a prediction counts only if the whole JSON command is "
        f"correct. After equal short training, prefix tuning reaches {short[0]} % and LoRA {short[1]} %. Longer runs "
        f"with better settings are level: prefix tuning {_score(prefix)} with {size(prefix.cost['adapter_bytes'])}, "
        f"LoRA {_score(lora)} with {size(lora.cost['adapter_bytes'])}. These are single runs, and fewer settings were "
        "tried for LoRA ([records](results/tasks/home_commands))."
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
