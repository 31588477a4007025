"""The claims: what soft prompts are said to be good for, and what the records of the three tasks say to it."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean

from benchmarks.report.evidence import Measure, Records, Verdict, by_comparisons, by_seeds, detached, values_of
from benchmarks.report.measures import (
    AGREEMENT,
    ANSWER,
    DRAWN,
    ENERGY,
    FIRST,
    GENERAL,
    MEMORY,
    PARAMETERS,
    PROCESSOR,
    PROMPT,
    SAVED,
    SECONDS,
    SPEED,
    VIRTUAL,
    WRITTEN_TOKENS,
    drawn,
    metric,
    other_tasks,
    transfers,
)
from benchmarks.report.tables import NONE, Table, percent, spread
from softprompts.methods.catalog import METHODS

TASKS = ("sentiment", "home_commands", "docstrings")
WRITTEN = ("zero_shot", "few_shot")
# A grid has one task: multitask prompt tuning is in none.
SOFT = tuple(m.name for m in METHODS.values() if m.what == "soft" and m.name != "multitask_prompt_tuning")
WEIGHTS = tuple(m.name for m in METHODS.values() if m.what == "weights")


@dataclass(frozen=True)
class Claim:
    """A statement, and the verdict of each task on it."""

    statement: str
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True)
class Section:
    """Claims on one subject, and the tables of what they are judged by, each with its caption."""

    title: str
    claims: tuple[Claim, ...]
    tables: tuple[tuple[str, Table], ...]


def make_card(records: Records) -> list[Section]:
    """Return the sections of the card; it needs the benchmarks named as the tasks, whatever else there is."""
    return [
        _structured(records),
        _style(records),
        _training(records),
        _risk(records),
        _transfer(records),
        _inference(records),
    ]


def _structured(records: Records) -> Section:
    task = "home_commands"
    everyone = (*SOFT, *WEIGHTS)
    valid = by_comparisons(records, task, ["valid_json", "valid_schema"], SOFT, WRITTEN)
    claims = (
        Claim(
            "Soft prompts give valid JSON, and JSON valid by the schema, more often than a written prompt.", (valid,)
        ),
        Claim(
            "Soft prompts give the exact command more often than a written prompt.",
            (by_comparisons(records, task, ["exact_match"], SOFT, WRITTEN),),
        ),
        Claim(
            "Soft prompts give the exact command more often than LoRA and full fine-tuning.",
            (by_comparisons(records, task, ["exact_match"], SOFT, WEIGHTS),),
        ),
        Claim(
            "Drawn at random, answers of trained methods agree more, and are more often right, than those of a written "
            "prompt.",
            (by_seeds(records, task, [AGREEMENT, DRAWN], everyone, WRITTEN),),
        ),
    )
    metrics = [metric(name) for name in ("valid_json", "valid_schema", "exact_match", "slot_f1")]
    sampled = [Measure(f"{name}, drawn", drawn("metrics", name), percent) for name in ("valid_json", "exact_match")]
    measures = [*metrics, *sampled, Measure("agreement of draws", AGREEMENT.read, percent)]
    return Section("Structured output", claims, _tables(records, (task,), measures, "in per cent"))


def _style(records: Records) -> Section:
    task = "docstrings"
    claims = (
        Claim(
            "Soft prompts keep to the house style more often than a written prompt.",
            (by_comparisons(records, task, ["style_rate"], SOFT, WRITTEN),),
        ),
        Claim(
            "Soft prompts overlap more with the summaries that people wrote than a written prompt.",
            (by_comparisons(records, task, ["rouge_l", "chrf"], SOFT, WRITTEN),),
        ),
        Claim(
            "Soft prompts keep to the house style, and overlap, more than LoRA and full fine-tuning.",
            (by_comparisons(records, task, ["style_rate", "rouge_l", "chrf"], SOFT, WEIGHTS),),
        ),
    )
    metrics = [metric(name) for name in ("style_rate", "rouge_l", "chrf")]
    return Section("Style of a domain", claims, _tables(records, (task,), metrics, "in per cent"))


def _training(records: Records) -> Section:
    def claim(statement: str, *measures: Measure) -> Claim:
        return Claim(statement, tuple(by_seeds(records, task, measures, SOFT, WEIGHTS) for task in TASKS))

    claims = (
        claim("Soft prompts train fewer parameters than LoRA and full fine-tuning.", PARAMETERS),
        claim("Soft prompts save fewer bytes a task than LoRA and full fine-tuning.", SAVED),
        claim("Soft prompts train in fewer seconds than LoRA and full fine-tuning.", SECONDS),
        claim("Soft prompts train in less memory than LoRA and full fine-tuning.", MEMORY),
    )
    measures = [PARAMETERS, SAVED, SECONDS, PROCESSOR, SPEED, MEMORY, ENERGY]
    return Section("Cost of training", claims, _tables(records, TASKS, measures, "mean over seeds", (*SOFT, *WEIGHTS)))


def _risk(records: Records) -> Section:
    others = {task: other_tasks(records.benchmarks.get(task)) for task in TASKS}
    claims = (
        Claim(
            "Attached, soft prompts raise the loss on general text less than LoRA and full fine-tuning.",
            tuple(by_seeds(records, task, [GENERAL], SOFT, WEIGHTS) for task in TASKS),
        ),
        Claim(
            "Attached, soft prompts keep more of the score on other tasks than LoRA and full fine-tuning.",
            tuple(by_seeds(records, task, others[task], SOFT, WEIGHTS) for task in TASKS),
        ),
        Claim(
            "Detached, an adapter leaves the base model as it was, to the last bit (full fine-tuning has no detached "
            "state: what it changes stays).",
            tuple(detached(records, task, (*SOFT, "lora")) for task in TASKS),
        ),
    )
    tables = (
        table
        for task in TASKS
        for table in _tables(records, (task,), [GENERAL, *others[task]], "after training on it", (*SOFT, *WEIGHTS))
    )
    return Section("Risk to what the base model does elsewhere", claims, tuple(tables))


def _transfer(records: Records) -> Section:
    kinds = {"sentiment": "domains", "home_commands": "languages"}
    measures = {
        task: transfers(records.benchmarks.get(task)) or [Measure(f"score on other {kind}", lambda _: None, str)]
        for task, kind in kinds.items()
    }
    claims = (
        Claim(
            "Trained on one domain, soft prompts score higher on others than LoRA and full fine-tuning (Lester et al. "
            "2021, section 5).",
            (by_seeds(records, "sentiment", measures["sentiment"], SOFT, WEIGHTS),),
        ),
        Claim(
            "Trained on one language, soft prompts score higher on others than LoRA and full fine-tuning (Li and Liang "
            "2021, section 6.4, of other topics).",
            (by_seeds(records, "home_commands", measures["home_commands"], SOFT, WEIGHTS),),
        ),
    )
    tables = (
        *_tables(records, ("sentiment",), measures["sentiment"], "trained on movies"),
        *_tables(records, ("home_commands",), measures["home_commands"], "trained on English"),
    )
    return Section("Domains and languages that it was not trained on", claims, tables)


def _inference(records: Records) -> Section:
    claims = (
        Claim(
            "With a soft prompt the model reads fewer tokens for a request than with solved examples in its prompt.",
            tuple(by_seeds(records, task, [PROMPT], SOFT, ["few_shot"]) for task in TASKS),
        ),
        Claim(
            "With a soft prompt a single request is answered sooner than with solved examples in its prompt.",
            tuple(by_seeds(records, task, [FIRST, ANSWER], SOFT, ["few_shot"]) for task in TASKS),
        ),
    )
    measures = [WRITTEN_TOKENS, VIRTUAL, FIRST, ANSWER]
    return Section("Cost of a request", claims, _tables(records, TASKS, measures, "mean over seeds"))


def _tables(
    records: Records, tasks: tuple[str, ...], measures: list[Measure], what: str, methods: tuple[str, ...] | None = None
) -> tuple[tuple[str, Table], ...]:
    """Return a table for each task that has records: a row a method, a column a measure."""
    found = []
    for task in tasks:
        if benchmark := records.benchmarks.get(task):
            rows = [
                (benchmark.label(m), *(_cell(values_of(benchmark, m, measure), measure) for measure in measures))
                for m in benchmark.grid["methods"]
                if methods is None or m in methods
            ]
            head = ("method", *(measure.name for measure in measures))
            found.append((f"{task}, {what}", Table(head, tuple(rows))))
    return tuple(found)


def _cell(values: list[float], measure: Measure) -> str:
    if not values:
        return NONE
    same = measure.exact or len({measure.show(v) for v in values}) == 1
    return (measure.show(mean(values)) if same else spread(values, measure.show)) + measure.unit
