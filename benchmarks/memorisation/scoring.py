"""Score canaries and random candidates with a trained model, and let it complete each canary.

    python -m benchmarks.memorisation.scoring FOLDER

reads `job.json` in the folder, and writes `scores.json`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.memorisation.canaries import Canary, make_canaries, make_candidates, row_of, write_rows
from benchmarks.memorisation.exposure import exposure
from benchmarks.memorisation.settings import JOB, SCORES, MemorisationConfig
from softprompts.adapters.loading import load_adapter, virtual_tokens
from softprompts.config.paths import ADAPTER, MODEL
from softprompts.config.sections import ModelConfig, TaskConfig
from softprompts.config.tools import AdapterConfig
from softprompts.encoding.documents import Example
from softprompts.encoding.tokenization import encode
from softprompts.engine.build import make_engine
from softprompts.engine.forward import Engine
from softprompts.engine.generation import generate
from softprompts.evaluation.predict import document_losses
from softprompts.models.loading import default_device, input_spec, load_base_model
from softprompts.system.files import write_atomically
from softprompts.tasks.task import load_task

import torch

TOGETHER = 100  # candidates in one forward pass; they share the canary's prompt
WRITTEN = 32  # tokens of a completion
COMPLETED = 8  # canaries that are completed together


def score(
    config: MemorisationConfig, seed: int, settings: dict[str, Any], run: Path | None, folder: Path
) -> list[dict[str, Any]]:
    """Return the exposure of each canary, and whether the model writes its secret.

    Args:
        config: settings of the probe.
        seed: which canaries.
        settings: sections `model` and `task` of the run.
        run: folder of the finished run; None for the base model.
        folder: where the rows to score are written.
    """
    canaries, candidates = make_canaries(config, seed), make_candidates(config, seed)
    model = ModelConfig(**settings["model"])
    if run is not None and (run / MODEL).is_dir():
        model = replace(model, name_or_path=str(run / MODEL))
    adapter = AdapterConfig(str(run / ADAPTER) if run is not None and (run / ADAPTER).is_dir() else None)
    task = load_task(_rows(config, canaries, candidates, TaskConfig(**settings["task"]), folder))
    base, tokenizer = load_base_model(model, default_device(), task.choices)
    tuned = load_adapter(base, adapter)
    data = encode(task, tokenizer, input_spec(base, virtual_tokens(tuned)))
    engine = make_engine(tuned, tokenizer, config=model, data=data, say=print)
    engine.eval()
    with torch.inference_mode(), engine.prompts_cached():
        secrets = _losses(engine, list(data.validation))
        others = _losses(engine, list(data.test))
        written = _completions(engine, list(data.validation))
    found = []
    for number, (canary, loss, text) in enumerate(zip(canaries, secrets, written, strict=True)):
        own = others[number * len(candidates) : (number + 1) * len(candidates)]
        bits = exposure(loss, own, config.digits)
        found.append(
            {"insertions": canary.insertions, "loss": loss} | asdict(bits) | {"extracted": canary.secret in text}
        )
    return found


def main(folder: Path) -> None:
    """Do the job of a folder."""
    job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    run = Path(job["run"]) if job["run"] else None
    found = score(MemorisationConfig(**job["config"]), job["seed"], job["settings"], run, folder)
    write_atomically(folder / SCORES, json.dumps(found))


def _rows(
    config: MemorisationConfig, canaries: list[Canary], candidates: list[str], task: TaskConfig, folder: Path
) -> TaskConfig:
    """Write canaries and candidates, and return a task whose validation and test they are."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {split: folder / f"{split}.jsonl" for split in ("validation", "test")}
    write_rows(files["validation"], [row_of(config, c.name, c.secret) for c in canaries])
    write_rows(files["test"], [row_of(config, c.name, secret) for c in canaries for secret in candidates])
    canary, candidate = (str(files[split]) for split in ("validation", "test"))
    return replace(task, train=canary, validation=canary, test=candidate, max_rows={})


def _losses(engine: Engine, examples: list[Example]) -> list[float]:
    """Return the loss of each row's target, in nats, summed over its tokens."""
    documents = [example.document for example in examples]
    parts = [document_losses(engine, documents[i : i + TOGETHER]) for i in range(0, len(documents), TOGETHER)]
    return [float(loss) for loss in torch.cat(parts)]


def _completions(engine: Engine, examples: list[Example]) -> list[str]:
    """Return what the model writes after each row's prompt, always taking the likeliest token."""
    prompts = [example.document.prompt_ids for example in examples]
    return [
        text
        for i in range(0, len(prompts), COMPLETED)
        for text in generate(engine, prompts[i : i + COMPLETED], WRITTEN)
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
