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
    return (
        f"- **Small.** On the sentiment task a soft prompt trains {soft.parameters['trainable']:,} parameters "
        f"({size(soft.cost['adapter_bytes'])}); LoRA trains {lora.parameters['trainable']:,} "
        f"({size(lora.cost['adapter_bytes'])}). Their test accuracies, in one run of each shipped config, are "
        f"{_score(soft)} and {_score(lora)} ([records](results/tasks/sentiment); 95 % intervals in brackets)."
    )


def _fast() -> str:
    found = {record["method"]: record["ratio"] for record in speeds()}
    short, long = found["prompt20"], found["prompt100"]
    rest = [found[name]["peft"] for name in found if name not in ("prompt20", "prompt100")]
    return (
        "- **Fast on a CPU.** A step of prompt tuning with 20 virtual tokens is "
        f"{short['peft']:.1f} times as fast as with PEFT and `Trainer`, and {short['trl']:.1f} times as fast as with "
        f"TRL, Hugging Face's training library. With 100 tokens it is {long['peft']:.1f} and {long['trl']:.1f} times "
        f"as fast. Prefix tuning, P-tuning, LoRA and full fine-tuning are {min(rest):.1f} to {max(rest):.1f} times as "
        "fast as with PEFT and `Trainer` ([records](results/throughput): float32, batches of 16, 2 CPU cores)."
    )


def _close() -> str:
    prefix, lora = (shipped("home_commands")[name] for name in ("prefix_tuning", "lora"))
    short = [metric("exact_match").spread(runs().loc["home_commands"].loc[[run.recipe]]) for run in (prefix, lora)]
    return (
        "- **Exact JSON needs a prefix or LoRA.** On home_commands an answer counts only if its whole JSON command is "
        f"right. With the shipped configs, prefix tuning reaches {_score(prefix)} with "
        f"{size(prefix.cost['adapter_bytes'])}, and LoRA {_score(lora)} with {size(lora.cost['adapter_bytes'])} "
        "([records](results/tasks/home_commands)). These are single runs, and LoRA's settings are tuned less. After "
        f"the benchmark's equal short training LoRA has {short[1]} %, and prefix tuning {short[0]} %."
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
