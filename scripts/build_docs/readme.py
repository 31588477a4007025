"""Write README's generated parts from the records: the demo's output, four findings, the table of results."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.report.tables import metric
from benchmarks.text import put
from scripts.build_docs.pages import ROOT
from scripts.build_docs.records import RESULTS, record_of_config, runs, shipped, speeds, swept, use_case
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
    """Return four findings, each with a link to its record."""
    return "\n".join([_small(), _fast(), _few(), _close()])


def _small() -> str:
    soft, lora = (shipped("sentiment")[name] for name in ("prompt_tuning", "lora"))
    scores = [_seeds(run, "accuracy") for run in (soft, lora)]
    costs = [
        f"{_mean(run, 'parameters.trainable'):,.0f}{word} ({size(_mean(run, 'cost.adapter_bytes'))}{place})"
        for run, word, place in ((soft, " parameters", " on disk"), (lora, "", ""))
    ]
    return (
        f"- **Small.** In the benchmark on sentiment, prompt tuning trains {costs[0]}, and LoRA {costs[1]}. "
        f"Their test accuracies are {scores[0]} % and {scores[1]} %: mean ± standard deviation over three seeds. "
        f"In one longer run each, prompt tuning with {soft.parameters['trainable']:,} parameters reaches "
        f"{_score(soft)}, and LoRA {_score(lora)}. Ranges in brackets are 95 % intervals "
        f"({_records(soft, lora)}). [Results](#results) explains benchmark and longer runs."
    )


def _fast() -> str:
    found = {record["method"]: record["ratio"] for record in speeds()}
    short, long = found["prompt20"], found["prompt100"]
    rest = [found[name] for name in found if name not in ("prompt20", "prompt100")]
    peft, trl = ([ratio[side] for ratio in rest] for side in ("peft", "trl"))
    return (
        "- **Fast on a CPU.** With 20 virtual tokens, a step of prompt tuning is "
        f"{short['peft']:.1f} times as fast as with PEFT and Transformers' `Trainer`. "
        f"It is {short['trl']:.1f} times as fast as with TRL. "
        f"With 100 virtual tokens, the factors are {long['peft']:.1f} and {long['trl']:.1f}. "
        f"For other [methods](#methods) they are {min(peft):.1f} to {max(peft):.1f} against `Trainer`, "
        f"and {min(trl):.1f} to {max(trl):.1f} against TRL. "
        "All steps had 16 rows, in float32 on 2 CPU cores ([records](results/throughput))."
    )


def _few() -> str:
    records = use_case("product")
    assert records is not None
    names = ("prefix_tuning", "prompt_tuning", "lora", "full_finetuning", "few_shot")
    prefix, prompt, lora, full, written = (
        metric("accuracy").spread(records.of("product").loc[[name]]) for name in names
    )
    return (
        "- **100 labelled rows are enough to try.** On [product](docs/use_cases/product.md), questions to a bank get "
        "one of eight queues. Training reads 50 rows, and 50 others choose the settings. "
        f"Prefix tuning reaches {prefix} %, prompt tuning {prompt} %, LoRA {lora} % and full fine-tuning {full} %. "
        f"A hard prompt with 16 of these rows reaches {written} %. Each is a mean ± standard deviation over three "
        "seeds ([records](results/benchmarks/product))."
    )


def _close() -> str:
    names = ("prompt_tuning", "prefix_tuning", "lora")
    prompt, prefix, lora = (shipped("home_commands")[name] for name in names)
    short = [_seeds(run, "exact_match") for run in (prompt, prefix, lora)]
    return (
        "- **JSON is hard for prompt tuning.** "
        "On home_commands, a prediction counts only if the whole command is correct. "
        f"In the benchmark, prompt tuning reaches {short[0]} %, prefix tuning {short[1]} % and LoRA {short[2]} %. "
        f"In one longer run each, prompt tuning with {prompt.settings['prompt']['num_virtual_tokens']} virtual tokens "
        f"reaches {_score(prompt)}. Prefix tuning reaches {_score(prefix)} with {size(prefix.cost['adapter_bytes'])}, "
        f"and LoRA {_score(lora)} with {size(lora.cost['adapter_bytes'])} ({_records(prompt, prefix, lora)}). "
        f"{_chosen('home_commands', names)}"
    )


def _chosen(task: str, recipes: Sequence[str]) -> str:
    """Return which of the longer runs have settings that the study chose."""
    found = [METHODS[recipe].label for recipe in recipes if swept(task, recipe)]
    if not found:
        return "No sweep at this length has chosen their settings yet."
    return f"For these longer runs, [sweeps](results/report/study.md) chose the settings of {' and '.join(found)}."


def _records(*runs: Result) -> str:
    """Return links to the folders of the records of shipped configs."""
    files = [record_of_config(run.task, run.recipe, RESULTS).relative_to(ROOT) for run in runs]
    folders = [file.parents[1] if "benchmarks" in file.parts else file.parent for file in files]
    return ", ".join(f"[records]({folder.as_posix()})" for folder in dict.fromkeys(folders))


def _seeds(run: Result, name: str) -> str:
    return metric(name).spread(runs().loc[run.task].loc[[run.recipe]])


def _mean(run: Result, column: str) -> float:
    return float(runs().loc[run.task].loc[[run.recipe]][column].mean())


def _score(result: Result) -> str:
    first = next(iter(result.metrics.values()))
    return f"{100 * first.value:.1f} % ({100 * first.low:.1f} to {100 * first.high:.1f})"


def main() -> None:
    """Write every part."""
    for mark, made in parts().items():
        put(README, mark, made)


if __name__ == "__main__":
    main()
