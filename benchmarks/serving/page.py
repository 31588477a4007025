"""The page of the serving benchmark, written from its record."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from softprompts.reports.tables import markdown_table
from softprompts.system.files import write_atomically

VLLM = "vllm, baked"
LABELS = {
    "ours": "this project",
    "ours, computed anew": "this project, soft prompts computed again",
    "peft, switching": "PEFT, adapter switched at each request",
    "peft, grouped": "PEFT, grouped by task",
    "lora, mixed": "LoRA, `adapter_names`",
    VLLM: "vLLM, baked",
    "ours, http": "this project over HTTP",
}
# The targets of this project's rate of requests, as a multiple of each way's rate.
TARGETS = {"peft, switching": 4.0, "peft, grouped": 1.5, "lora, mixed": 1.3}


def write_page(record: dict[str, Any], file: Path) -> None:
    """Write the page."""
    parts = [_head(record), _saturation(record), _loads(record), _memory(record["cells"]["memory"])]
    write_atomically(file, "\n\n".join(parts) + "\n")


def ways_of(record: dict[str, Any]) -> list[str]:
    """Return the ways that were measured."""
    return [name for name in LABELS if f"saturation/{name}/0" in record["cells"]]


def rounds_of(record: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return a way's rounds of saturation."""
    cells = record["cells"]
    return [cell for key, cell in cells.items() if key.rpartition("/")[0] == f"saturation/{name}"]


def rate_of(record: dict[str, Any], name: str) -> float:
    """Return a way's requests per second at saturation, the median of its rounds."""
    return median(cell["a_second"] for cell in rounds_of(record, name))


def equal_to_peft(record: dict[str, Any], name: str) -> tuple[int, int]:
    """Return how many texts a way answers like PEFT with one request at a time, and how many both have answered."""
    expected = _answers(record, "peft, switching")
    found = {text: answer for text, answer in _answers(record, name).items() if text in expected}
    return sum(answer == expected[text] for text, answer in found.items()), len(found)


def _answers(record: dict[str, Any], name: str) -> dict[str, str]:
    return {text: answer for cell in rounds_of(record, name) for text, answer in cell["answers"].items()}


def _head(record: dict[str, Any]) -> str:
    found, settings = record["environment"], record["settings"]
    versions = ", ".join(f"{name} {found['versions'][name]}" for name in ("torch", "transformers", "peft"))
    hardware = found["hardware"]
    return f"""# Many tasks from one process: speed and memory

`make bench-serving` measures this and writes this page. {len(settings["tasks"])} tasks over SmolLM2-135M in
{settings["dtype"]}, soft prompts of {settings["virtual_tokens"]} tokens, half of them prefixes; texts of the embedded
data, {settings["answer_tokens"]} greedy tokens each. {hardware["processor"]}, {hardware["cores"]} cores,
{hardware["threads"]} threads; {versions}; vLLM {record["vllm"]}; commit `{found["commit"][:12]}`
([record](../results/serving.json), [program](../benchmarks/serving/__main__.py))."""


def _saturation(record: dict[str, Any]) -> str:
    ours = rate_of(record, "ours")
    rows = []
    for name in ways_of(record):
        rate, rounds = rate_of(record, name), [cell["a_second"] for cell in rounds_of(record, name)]
        target = f"{TARGETS[name]:.1f}x" if name in TARGETS else ""
        same, of = equal_to_peft(record, name)
        # LoRA has other weights, vLLM has substitutes for prefixes, and HTTP returns text.
        equal = "" if name in ("lora, mixed", VLLM) or not of else f"{same} of {of}"
        spread = f"{min(rounds):.2f} to {max(rounds):.2f}"
        rows.append((LABELS[name], f"{rate:.2f}", spread, f"{ours / rate:.2f}x", target, equal))
    head = (
        "way",
        "requests per second",
        "rounds",
        "this project's rate divided by it",
        "target",
        "answers equal to PEFT's",
    )
    # Each text occurs in every round, and only vLLM keeps the keys and values of texts.
    kept = (
        " vLLM keeps the keys and values of texts that it has read, and texts occur again."
        if VLLM in ways_of(record)
        else ""
    )
    return f"""## At saturation

{record["settings"]["clients"]} clients; each sends its next request after each answer. At most
{record["settings"]["rows_in_a_batch"]} rows in a batch. Medians of {record["settings"]["rounds"]} rounds in turn;
HTTP has one round.{kept}

{markdown_table(head, rows)}"""


def _loads(record: dict[str, Any]) -> str:
    cells = record["cells"]
    shares = sorted({key.split("/")[1] for key in cells if key.startswith("load/")})
    rows: list[tuple[str, ...]] = []
    for name in ways_of(record):
        places = [("one client", f"idle/{name}"), ("half of its own saturation", f"half/{name}")]
        places += [(f"{float(share):.0%} of this project's", f"load/{share}/{name}") for share in shares]
        for label, key in places:
            if key not in cells:
                continue
            cell = cells[key]
            if "beyond" in cell:
                rows.append((LABELS[name], label, f"{cell['beyond']:.2f}", "more than it can answer", "", "", ""))
                continue
            rate = f"{cell['rate']:.2f}" if "rate" in cell else ""
            times = [f"{cell[what][which]:.2f}" for what in ("first", "latency") for which in ("p50", "p99")]
            rows.append((LABELS[name], label, rate, *times))
    head = ("way", "load", "arrivals per second", "first token, p50", "p99", "whole answer, p50", "p99")
    half, idle = cells["half/ours"]["latency"]["p99"], cells["idle/ours"]["latency"]["p99"]
    return f"""## Latency by load

Seconds. Arrivals are random (Poisson). A call of `generate` returns its rows' answers together, after the last token;
its first token counts at the time of its computation. At half of its saturation this project's p99 is
{half / idle:.2f} times that of one client (target: below 2).

{markdown_table(head, rows)}"""


def _memory(found: dict[str, Any]) -> str:
    loaded, used = found["loaded_mib"], found["used_mib"]
    head = ("tasks", "resident, loaded", "resident, each used once")
    rows = [(f"{int(count):,}", f"{loaded[count]:,.0f} MiB", f"{used[count]:,.0f} MiB") for count in loaded]
    more = loaded["100"] / loaded["1"] - 1
    return f"""## Memory

One process, the tasks added one after another; soft prompts of {found["virtual_tokens"]} tokens as embeddings. 100
tasks need {more:.1%} more than one (target: at most 1 %). Keys and values of prompts that were used are kept up to
{found["bound_mib"]:.0f} MiB (`serve.cache_megabytes`); the least recently used are dropped. A prefix is keys and values
from the start, and all of them are kept.

{markdown_table(head, rows)}"""
