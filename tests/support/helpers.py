"""Helpers of several test files: the tiny model, documents, tasks of a few rows, a run's parts."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from softprompts.config.sections import EvaluationConfig, ModelConfig, RunConfig, TaskConfig, TrainingConfig
from softprompts.encoding.documents import Document, EncodedTask
from softprompts.encoding.tokenization import encode
from softprompts.engine.build import make_engine
from softprompts.engine.forward import Engine, Scores
from softprompts.methods.soft_prompts.prompt_tuning import add_soft_prompt
from softprompts.models.loading import InputSpec, load_base_model
from softprompts.runs.command import cli
from softprompts.runs.record import Progress
from softprompts.runs.run import Run, start_run
from softprompts.tasks.task import Row, Task, load_task
from softprompts.training.loop import train
from warm import WarmProcess

import pytest
import torch
from hypothesis import strategies
from peft import (
    CartridgeConfig,
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
TEXT = "the film was good and the plot was fine"
INSTRUCTION = "Decide whether the sentiment of the following text is positive or negative."


def load_base(folder: Path, dtype: Any = "float32") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the frozen tiny model and its tokenizer."""
    return load_base_model(ModelConfig(str(folder), dtype=dtype), CPU)


def prompt_config(folder: Path, tokens: int = 5, **changes: Any) -> PromptTuningConfig:
    """Return settings of a soft prompt, by default with random values: N(0, 1), far from any embedding."""
    settings = {"prompt_tuning_init": "RANDOM", "tokenizer_name_or_path": str(folder)} | changes
    return PromptTuningConfig(num_virtual_tokens=tokens, **settings)


def load_tuned(folder: Path, tokens: int = 5, seed: int = 0) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """Return the tiny model with a random soft prompt, and its tokenizer."""
    base, tokenizer = load_base(folder)
    torch.manual_seed(seed)
    return add_soft_prompt(base, tokenizer, prompt_config(folder, tokens)), tokenizer


def documents(vocabulary: int, most: int = 6, bank: int = 1) -> strategies.SearchStrategy[list[Document]]:
    """Draw 1 to `most` documents of 1 to 48 prompt tokens and 1 to 5 target tokens, for `bank` soft prompts.

    Prompts and targets come from short lists, so documents share prompts, targets, or both; the prompts may all begin
    with up to 8 tokens.
    """
    token = strategies.integers(0, vocabulary - 1)
    prompts, targets = (
        strategies.lists(strategies.lists(token, min_size=1, max_size=n).map(tuple), min_size=1, max_size=most)
        for n in (40, 5)
    )
    heads = strategies.lists(token, max_size=8).map(tuple)
    headed = strategies.builds(lambda head, rest: [head + ids for ids in rest], heads, prompts)
    return strategies.tuples(headed, targets).flatmap(
        lambda drawn: strategies.lists(
            strategies.builds(Document, *map(strategies.sampled_from, drawn), strategies.integers(0, bank - 1)),
            min_size=1,
            max_size=most,
        )
    )


METHODS: dict[str, PeftConfig | None] = {
    "base": None,
    "prompt tuning": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
    "prefix tuning": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
    "cartridge": CartridgeConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
    "projected prefix": PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=5, prefix_projection=True, encoder_hidden_size=16
    ),
    "P-tuning MLP": PromptEncoderConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=5, encoder_hidden_size=16, encoder_reparameterization_type="MLP"
    ),
    "P-tuning LSTM": PromptEncoderConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=5, encoder_hidden_size=16, encoder_reparameterization_type="LSTM"
    ),
    "lora": LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False),
    "IA3": IA3Config(task_type="CAUSAL_LM", init_ia3_weights=False),
    "full fine-tuning": None,
}


def method_engine(folder: Path, method: str, seed: int = 0) -> Engine:
    """Return an engine over the tiny model with one of METHODS, attached by PEFT itself, with random values."""
    base, tokenizer = load_base(folder)
    torch.manual_seed(seed)
    if method == "full fine-tuning":
        base.requires_grad_(True)
    config = METHODS[method]
    model = base if config is None else get_peft_model(base, copy.deepcopy(config)).eval()
    return Engine(model, tokenizer, packed=True)


def bank_engine(folder: Path, lengths: Sequence[int] = (5, 2, 9), prefix: bool = False) -> tuple[Engine, list[Engine]]:
    """Return an engine over a bank of soft prompts or prefixes of one base model, and a separate engine for each."""
    base, tokenizer = load_base(folder)
    torch.manual_seed(1)
    if prefix:
        configs = [PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=n) for n in lengths]
        models = [get_peft_model(base, config).eval() for config in configs]
    else:
        models = [add_soft_prompt(base, tokenizer, prompt_config(folder, n)) for n in lengths]
    alone = [Engine(model, tokenizer, packed=True) for model in models]
    return Engine(models[0], tokenizer, packed=True, bank=models[1:]), alone


def scores(engine: Engine, docs: Sequence[Document], packed: bool) -> Scores:
    """Run the engine packed or not; afterwards restore its setting."""
    before, engine.packed = engine.packed, packed
    try:
        return engine(docs)
    finally:
        engine.packed = before


def gradient_of(loss: torch.Tensor, engine: Engine) -> torch.Tensor:
    """Return the gradient of all trainable parameters in one flat tensor; empty without any."""
    trainable = [p for p in engine.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, trainable) if trainable else []
    return torch.cat([torch.zeros(0), *(g.flatten() for g in gradients)])


def loss_and_gradient(engine: Engine, docs: Sequence[Document], packed: bool) -> tuple[float, torch.Tensor]:
    """Return the mean loss of the targets, and its gradient."""
    loss = scores(engine, docs, packed).nll().mean()
    return loss.item(), gradient_of(loss, engine)


def by_hand(engine: Engine, prompt: tuple[int, ...], tokens: int) -> str:
    """Decode greedily without a cache: each token needs a forward pass over the whole text."""
    written: list[int] = []
    for _ in range(tokens):
        logits = scores(engine, [Document((*prompt, *written), (0,))], packed=False).logits
        written.append(int(logits[0].argmax()))
        if written[-1] == engine.tokenizer.eos_token_id:
            return engine.tokenizer.decode(written[:-1])
    return engine.tokenizer.decode(written)


def make_task(rows: list[tuple[str, str]], choices: tuple[str, ...] | None = None, **settings: Any) -> Task:
    """Return a task with the same (prompt, target) rows in all three splits."""
    made = [Row(f"row {n}", prompt, target, {"text": prompt}) for n, (prompt, target) in enumerate(rows, start=1)]
    config = TaskConfig(prompt="{text}", target="{label}", **settings)
    return Task("made", dict.fromkeys(("train", "validation", "test"), made), choices, ("accuracy",), "none", config)


def task_config(folder: Path, **changes: Any) -> TaskConfig:
    """Return the settings of the tiny sentiment task."""
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "validation", "test")}
    settings: dict[str, Any] = {"choices": [" positive", " negative"]} | files | changes
    return TaskConfig(prompt="{text} sentiment", target=" {label}", **settings)


@dataclass
class Parts:
    """The arguments of `train`, and the model."""

    model: PeftModel
    engine: Engine
    data: EncodedTask
    training: TrainingConfig
    evaluation: EvaluationConfig
    run: Run

    @property
    def arguments(self) -> tuple[Engine, EncodedTask, TrainingConfig, EvaluationConfig, Run]:
        return self.engine, self.data, self.training, self.evaluation, self.run

    def prompt(self) -> torch.Tensor:
        """Return a copy of the virtual tokens."""
        return next(self.model.prompt_encoder.parameters()).detach().clone()


def build(model: Path, task: Path, output: Path, resume: bool = False, mode: str = "auto", **training: Any) -> Parts:
    """Build a run on the tiny model and task, ready to train; the same call returns the same parts."""
    settings = {"steps": 6, "batch_size": 8, "eval_every": 3, "best_by": "loss", "learning_rate": 0.05} | training
    config = TrainingConfig(**settings)
    evaluation = EvaluationConfig(batch_size=16, bootstrap_resamples=20)
    run = start_run("test", training=config, run=RunConfig(str(output), resume=resume, trackers=[]))
    base, tokenizer = load_base_model(ModelConfig(str(model)), run.accelerator.device)
    data = encode(load_task(task_config(task)), tokenizer, InputSpec(room=200))
    tuned = add_soft_prompt(
        base, tokenizer, prompt_config(model, prompt_tuning_init="TEXT", prompt_tuning_init_text=TEXT)
    )
    return Parts(
        tuned,
        make_engine(tuned, tokenizer, config=ModelConfig(engine=mode), data=data, say=run.say),
        data,
        config,
        evaluation,
        run,
    )


Build = Callable[..., Parts]  # the fixture `make`: a folder's name and settings of training give the parts of a run


def run_training(parts: Parts) -> Progress:
    """Train to the end."""
    return train(*parts.arguments)


def losses(history: list[dict[str, float]]) -> list[float]:
    """Return the training losses of a history, one per step."""
    return [entry["loss"] for entry in history if "loss" in entry]


def load_recipe(name: str) -> ModuleType:
    """Import `recipes/NAME.py`, which is not in a package."""
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", ROOT / "recipes" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # the parser reads the docstring there
    spec.loader.exec_module(module)
    return module


def recipe_environment() -> dict[str, str]:
    """Return the environment of a recipe in a separate process: one thread, offline, and a stack if it crashes."""
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
    }


def recipe_command(name: str, config: str, flags: dict[str, Any], *more: str) -> list[str]:
    """Return the command line of a recipe, without the program that starts it.

    The start of the shipped prefix of sentiment is a choice of the study, and no test is about it.
    """
    pinned = {"prefix.init_from": "null", "prefix.init_text": INSTRUCTION} if "prefix" in name else {}
    settings = (pinned if config == "sentiment" else {}) | flags
    pairs = [text for key, value in settings.items() for text in (f"--{key}", str(value))]
    return [f"recipes/{name}.py", "--config", f"configs/{config}/{name}.yaml", *pairs, *more]


def tiny_flags(model: Path, task: Path, output: Path) -> dict[str, Any]:
    """Return flags that replace the model and task of a sentiment config by the tiny ones."""
    return {
        "model.name_or_path": model,
        "model.dtype": "float32",
        "task.dataset": "null",
        "task.where": "{}",
        **{f"task.{split}": task / f"{split}.jsonl" for split in ("train", "validation", "test")},
        "task.choices": '[" positive", " negative"]',
        "evaluation.bootstrap_resamples": 20,
        "run.trackers": "[]",
        "run.output_dir": output,
    }


def start_recipe(command: list[str], said: str = "", **environment: str) -> WarmProcess:
    """Start a recipe in a separate process; `said` is its standard input."""
    return WarmProcess(command, ROOT, recipe_environment() | environment, said)


def run_recipe(command: list[str], said: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a recipe to its end in a separate process, and return its output."""
    process = start_recipe(command, said, **environment)
    try:
        out, err = process.communicate(timeout=900)
    finally:
        process.kill()
    return subprocess.CompletedProcess(command, process.wait(), out, err)


FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}  # variables that `accelerate launch` sets


def run_together(command: list[str], processes: int = 2, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a recipe in several processes that connect over gloo; return the first one's output, and the errors of all.

    A process that fails ends the others after a few seconds, in which they may report their errors.
    """
    from benchmarks.ports import free_port  # processes of their own import this module without the project's folder

    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(processes)} | environment
    ranks = [{"RANK": str(n), "LOCAL_RANK": str(n), "LOCAL_WORLD_SIZE": str(processes)} for n in range(processes)]
    started = [start_recipe(command, **(common | rank)) for rank in ranks]
    try:
        deadline = time.monotonic() + 300
        while any(process.poll() is None for process in started) and time.monotonic() < deadline:
            time.sleep(0.05)
            if any(process.poll() for process in started):
                deadline = min(deadline, time.monotonic() + 5)
        codes = [process.poll() for process in started]
    finally:
        for process in started:
            process.kill()
    said = [process.communicate(timeout=60) for process in started]
    code = next((code for code in codes if code), None if None in codes else 0)
    return subprocess.CompletedProcess(command, -1 if code is None else code, said[0][0], "".join(e for _, e in said))


def run_recipe_cold(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Do the same like a user: a new Python imports the libraries, which takes seconds."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=recipe_environment() | environment,
        capture_output=True,
        text=True,
        timeout=900,
    )


def main_in_process(command: list[str], folder: Path = ROOT) -> int:
    """Run a recipe's command line in this process, from a folder, and return its exit code."""
    main = load_recipe(Path(command[0]).stem).main
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", command)
        try:
            cli(main)
        except SystemExit as stopped:
            return int(stopped.code or 0)
    return 0


def cli_in_process(
    command: list[str], capture: pytest.CaptureFixture[str], folder: Path = ROOT
) -> tuple[int, str, list[str]]:
    """Run a recipe's command line in this process; return exit code, output, and lines of errors without progress."""
    capture.readouterr()
    code = main_in_process(command, folder)
    said = capture.readouterr()
    return code, said.out, error_lines(said.err)


def error_lines(text: str) -> list[str]:
    """Return the lines of standard error that a terminal shows at the end, without progress bars."""
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    lines = [line.rpartition("\r")[2].strip() for line in plain.split("\n")]
    return [line for line in lines if line and not re.search(r"\d+%\|", line)]


def read_result(folder: Path, name: str = "result.json") -> dict[str, Any]:
    """Return the record of a finished run."""
    return json.loads((folder / name).read_text(encoding="utf-8"))
