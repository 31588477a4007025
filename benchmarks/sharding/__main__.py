"""Measure the memory of a process when 1, 2 and 4 processes shard a base model of 1.5 billion random weights.

    python -m benchmarks.sharding [--processes 1 --processes 2] [--layers 33]

Each process loads the base model like a recipe, adds a soft prompt, and makes three steps in bfloat16 on the CPU. The
figure is the peak of its resident memory, less the memory before the base model is loaded: interpreter and libraries
need the same memory in any number of processes. The figures go to results/bench_sharding.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.ports import free_port
from softprompts.runs.environment import environment

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "results" / "bench_sharding.json"
PROCESSES = (1, 2, 4)
LAYERS = 33
# A layer of TinyLlama 1.1B (its config.json). 33 of these layers and the embeddings have 1.5 billion weights.
SHAPE: dict[str, Any] = {
    "vocab_size": 32_000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "tie_word_embeddings": True,
}
VIRTUAL_TOKENS, ROWS, TOKENS, UPDATES = 20, 4, 32, 3


def write_model(folder: Path, layers: int) -> int:
    """Write a Llama with random weights in bfloat16, one file per layer, and a tokenizer; return its size."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    config = LlamaConfig(**SHAPE, num_hidden_layers=layers, architectures=["LlamaForCausalLM"], dtype="bfloat16")
    config.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {n: p.shape for n, p in LlamaForCausalLM(config).named_parameters()}
    generator = torch.Generator().manual_seed(0)
    files: dict[str, dict[str, Any]] = {}
    for name, shape in shapes.items():
        layer = re.search(r"\.layers\.(\d+)\.", name)
        values = torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)
        files.setdefault(f"model-{layer[1] if layer else 'rest'}.safetensors", {})[name] = values
        if layer and len(files) > 2:  # the previous file is complete
            _save(folder, files, save_file)
    _save(folder, files, save_file, everything=True)
    index = {name: file for file, names in _names(folder).items() for name in names}
    total = 2 * sum(shape.numel() for shape in shapes.values())
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words = Tokenizer(models.BPE({letter: number for number, letter in enumerate(sorted(alphabet))}, []))
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="!", pad_token="!").save_pretrained(folder)
    return total // 2


def _save(folder: Path, files: dict[str, dict[str, Any]], save_file: Any, everything: bool = False) -> None:
    """Write complete files and forget their tensors; the embeddings' file and the newest one are not complete."""
    newest = list(files)[-1]
    for file in list(files):
        if everything or (file != newest and "rest" not in file):
            save_file(files.pop(file), folder / file, metadata={"format": "pt"})


def _names(folder: Path) -> dict[str, list[str]]:
    from safetensors import safe_open

    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            found[file.name] = list(opened.keys())
    return found


def measure(folder: str) -> dict[str, float]:
    """Load, train a little, and return this process's resident memory in GiB: before, and the peak after that."""
    from softprompts.config.sections import ModelConfig, TrainingConfig
    from softprompts.encoding.documents import Document, EncodedTask
    from softprompts.engine.forward import Engine
    from softprompts.methods.soft_prompts.prompt_tuning import add_soft_prompt
    from softprompts.models.loading import load_base_model
    from softprompts.training.state import make_candidate
    from softprompts.training.step import update

    import torch
    from accelerate import Accelerator
    from peft import PromptTuningConfig

    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    accelerator.reduce(torch.zeros(1))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak counts from here
    before = _memory("VmRSS")
    base, tokenizer = load_base_model(ModelConfig(folder, dtype="bfloat16"), accelerator.device)
    loaded = _memory("VmHWM")
    soft = PromptTuningConfig(num_virtual_tokens=VIRTUAL_TOKENS, prompt_tuning_init="RANDOM")
    engine = Engine(add_soft_prompt(base, tokenizer, soft, seed=0), tokenizer, packed=True)
    engine.eval()
    rows = [Document(tuple(range(n, n + TOKENS - 1)), (n,)) for n in range(ROWS)]
    training = TrainingConfig(batch_size=ROWS, steps=UPDATES)
    data: Any = EncodedTask.__new__(EncodedTask)  # without reading a task
    candidate = make_candidate(engine, 0, data=data, training=training, seed=0, folder=Path(folder) / "none")
    losses = [update(engine, [(candidate, rows)], accelerator)[0] for _ in range(UPDATES)]
    return {"before": before, "loading": loaded, "peak": _memory("VmHWM"), "loss": losses[-1]}


def _memory(key: str) -> float:
    """Return a number of the kernel about this process's memory, in GiB."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(rf"^{key}:\s+(\d+) kB$", text, re.MULTILINE)
    assert found
    return int(found[1]) / 2**20


def measured(folder: Path, processes: int) -> dict[str, Any]:
    """Run this number of processes; return the largest memory of any of them, in GiB."""
    several = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(processes)}
    several |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "LOCAL_WORLD_SIZE": str(processes)}
    started = []
    for rank in range(processes):
        own = several | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
        command = [sys.executable, "-m", "benchmarks.sharding", "--measure", str(folder)]
        started.append(subprocess.Popen(command, env=os.environ | own, stdout=subprocess.PIPE, text=True, cwd=ROOT))
    said = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit(1)
    found = [json.loads(text.splitlines()[-1]) for text in said]
    rounded = {key: round(max(each[key] for each in found), 3) for key in ("before", "loading", "peak", "loss")}
    return rounded | {"base": round(max(each["peak"] - each["before"] for each in found), 3)}


def main() -> None:
    """Measure, print a line for each number of processes, and write the record."""
    parser = argparse.ArgumentParser("python -m benchmarks.sharding", description=str(__doc__).splitlines()[0])
    parser.add_argument("--processes", type=int, action="append", help="numbers of processes; by default 1, 2 and 4")
    parser.add_argument("--layers", type=int, default=LAYERS, help="layers of the model; fewer give no record")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        print(json.dumps(measure(chosen.measure)))
        return
    with tempfile.TemporaryDirectory() as place:
        weights = write_model(Path(place), chosen.layers)
        found = {}
        for processes in chosen.processes or PROCESSES:
            found[str(processes)] = one = measured(Path(place), processes)
            of_one = one["base"] / next(iter(found.values()))["base"]
            print(f"{processes} processes: {one['base']:.2f} GiB each beyond {one['before']:.2f}, {of_one:.2f} of one")
    if chosen.layers == LAYERS and list(found) == [str(n) for n in PROCESSES]:
        record = {"environment": environment(), "weights": weights, "dtype": "bfloat16", "processes": found}
        RECORD.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
