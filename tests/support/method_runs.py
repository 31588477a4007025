"""Runs of each method's recipe on the tiny model, and results of stock PEFT and transformers with their output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from helpers import TEXT, main_in_process, recipe_command, run_recipe, tiny_flags

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

CHOICES = [" positive", " negative"]
DOMAINS = ["books", "movies"]  # sorted, in the order of multitask prompt tuning's numbers
STEPS, FACTOR_STEPS, TOKENS = 8, 4, 5
LENGTH = {"prompt.num_virtual_tokens": TOKENS}
PREFIX = {"prefix.num_virtual_tokens": TOKENS, "prefix.init_text": "null"}
ENCODER = LENGTH | {"prompt.encoder_hidden_size": 16}
# Name: recipe and flags. The first eight are the unchanged recipes, which run as separate processes.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "prefix": ("prefix_tuning", PREFIX | {"prefix.init_text": TEXT}),
    "P-tuning LSTM": (
        "p_tuning",
        ENCODER | {"prompt.encoder_reparameterization_type": "LSTM", "prompt.encoder_dropout": 0.2},
    ),
    "multitask": (
        "multitask_prompt_tuning",
        LENGTH | {"prompt.factor_steps": FACTOR_STEPS, "prompt.prompt_tuning_init_text": TEXT},
    ),
    "lora": ("lora", {"lora.r": 4, "lora.lora_dropout": 0.1}),
    "context": (
        "context_tuning",
        {"model.dtype": "float32", "context.demonstrations": 3, "context.token_dropout": 0.2},
    ),
    "ia3": ("ia3", {}),
    "CPT": ("cpt", {"model.dtype": "float32", "cpt.demonstrations": 3, "cpt.opt_projection_epsilon": 3.0}),
    "full": ("full_finetuning", {"training.learning_rate": 0.002}),
    "zero prefix": ("prefix_tuning", PREFIX | {"prefix.init_weights": "zero"}),
    "projected prefix": (
        "prefix_tuning",
        PREFIX | {"prefix.prefix_projection": "true", "prefix.encoder_hidden_size": 16},
    ),
    "P-tuning MLP": ("p_tuning", ENCODER),
}
PROCESSES = list(METHODS)[:8]
# The model generates its answer.
OPEN = {"task.choices": "null", "task.metrics": "[exact_match]", "evaluation.max_new_tokens": 5}


def short_command(recipe: str, model: Path, task: Path, output: Path, *more: str, **flags: Any) -> list[str]:
    """Return the command line of a recipe that trains for a few steps."""
    settings = tiny_flags(model, task, output) | {
        "task.prompt": "{text} sentiment",
        "training.steps": STEPS,
        "training.learning_rate": 0.02,
        "training.batch_size": 8,
        "training.warmup_steps": 0,
        "training.eval_every": 4,
        "training.eval_rows": "null",
        "training.best_by": "loss",
    }
    return recipe_command(recipe, "sentiment", settings | flags, *more)


def method_command(method: str, model: Path, task: Path, output: Path, *more: str, **flags: Any) -> list[str]:
    """Return the command line of one of METHODS for an output folder."""
    recipe, own = METHODS[method]
    return short_command(recipe, model, task, output, *more, **(own | flags))


def finish(method: str, model: Path, task: Path, folder: Path) -> Path:
    """Run one of METHODS to its end and return its folder."""
    command = method_command(method, model, task, folder)
    if method in PROCESSES:
        done = run_recipe(command)
        assert done.returncode == 0, done.stderr
        assert f"written to {folder}" in done.stdout
        assert "Traceback" not in done.stderr
        assert "warning" not in done.stdout
    else:
        assert main_in_process(command) == 0
    return folder


def domain_of(record: dict[str, Any]) -> str:
    """Return the domain of a row of `domain_task`, from the line of its file."""
    return ("movies", "books")[(int(record["place"].rpartition(":")[2]) - 1) // 2 % 2]


def stock_model(folder: Path, base: Path, record: dict[str, Any], auto: Any = AutoModelForCausalLM, **more: Any) -> Any:
    """Load a run's output for a row, with stock PEFT and transformers alone."""
    if (folder / "model").is_dir():
        return auto.from_pretrained(folder / "model").eval()
    adapter = folder / "adapter"
    if not (adapter / "adapter_config.json").is_file():
        adapter /= domain_of(record)
    return PeftModel.from_pretrained(auto.from_pretrained(base, **more).eval(), str(adapter)).eval()


def stock_scores(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompt: str, choices: list[str] = CHOICES, **more: Any
) -> list[float]:
    """Return the log-likelihood of each choice after a prompt, one row at a time; `more` goes to the model."""
    scores = []
    first = len(tokenizer(prompt).input_ids)
    for choice in choices:
        ids = tokenizer(prompt + choice, return_tensors="pt").input_ids
        with torch.inference_mode():
            # Virtual tokens have logits too; keys and values have none.
            likelihoods = model(input_ids=ids, **more).logits[0, -ids.shape[1] :].log_softmax(-1)
        scores.append(sum(likelihoods[i - 1, ids[0, i]].item() for i in range(first, ids.shape[1])))
    return scores


def stock_answer(model: Any, tokenizer: PreTrainedTokenizerBase, prompt: str, tokens: int = 5) -> str:
    """Return a decoder's greedy answer to one prompt."""
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    with torch.inference_mode():
        written = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )
    return str(tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True))


def saved_by_peft(model: Path, config: PeftConfig, folder: Path, scale: float = 1.0) -> Any:
    """Save an adapter with random values with PEFT alone; return its model."""
    torch.manual_seed(0)
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).eval()
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.mul_(scale)
    tuned.save_pretrained(str(folder))
    return tuned


def read_predictions(folder: Path) -> list[dict[str, Any]]:
    """Return the answers of a finished run to the test rows."""
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
