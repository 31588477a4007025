"""Answers compared with stock PEFT's, as a record and as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from softprompts.reports.tables import markdown_table

COLUMNS = {
    "transformers": "baked, transformers",
    "vllm vocabulary": "baked, vLLM",
    "server vocabulary": "baked, vLLM's server",
    "llama.cpp": "baked, GGUF in llama.cpp",
    "vllm prompt_embeds": "`prompt_embeds`, vLLM",
    "server prompt_embeds": "`prompt_embeds`, vLLM's server",
    "vllm kv_cache": "`kv_cache`, vLLM",
    "server kv_cache": "`kv_cache`, vLLM's server",
    "own server, HTTP": "this project's server, over HTTP",
}


def compared(expected: Sequence[Mapping[str, Any]], found: Sequence[Sequence[int]], ends: Sequence[int]) -> Any:
    """Return the number of equal rows; for others the first different token, and the margin of PEFT's token there.

    The comparison ignores end tokens, because only some engines return them.

    Args:
        expected: for each row, PEFT's answer and the margins of its tokens.
        found: the answers of another side.
        ends: ids of end tokens.
    """
    differ = []
    for number, (row, other) in enumerate(zip(expected, found, strict=True)):
        one, two = (cut(ids, ends) for ids in (row["answer"], other))
        if one != two:
            both = min(len(one), len(two))
            place = next((n for n in range(both) if one[n] != two[n]), both)
            differ.append({"row": number, "at": place, "margin": row["margins"][min(place, len(row["margins"]) - 1)]})
    return {"of": len(expected), "equal": len(expected) - len(differ), "differ": differ}


def cut(ids: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Return an answer up to its first end token, without that token."""
    place = next((number for number, each in enumerate(ids) if each in ends), len(ids))
    return list(ids[:place])


def table(results: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str] = COLUMNS) -> str:
    """Return a table of results by adapter and side; a dash means that the form does not support the adapter."""
    rows = []
    for name, cells in results.items():
        task, method = name.split("/")
        rows.append([f"{task}, {method.removesuffix('_tuning')}", *(cell(cells.get(side)) for side in columns)])
    return markdown_table(["task, method", *columns.values()], rows)


def cell(result: Mapping[str, Any] | None) -> str:
    """Return a result in words."""
    if result is None:
        return "-"
    text = f"{result['equal']} of {result['of']}"
    if result["differ"]:
        text += f", margin ≤ {max(row['margin'] for row in result['differ']):.3g}"
    return text
