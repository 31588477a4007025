"""Export soft prompts as vectors for vLLM's prompt embeddings, and build requests from them.

    soft_prompt = read_soft_prompt(Path("exports/vectors"), "sentiment")
    text = soft_prompt.reading.text_of(tokenizer, {"text": "A film to see twice."})
    ids = soft_prompt.reading.ids_of(tokenizer, text)
    body = request_body("base-model", prompt_tensor(soft_prompt, ids, base.get_input_embeddings()), max_tokens=8)

`tokenizer` and `base` belong to the base model and come from transformers. Send the body to `/v1/completions` of a
server that was started with `--enable-prompt-embeds`. This endpoint has no chat template, so the tensor is the whole
prompt.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softprompts.errors import UserError, short
from softprompts.export.agreement import Outcome, compare, greedy, load_prompts
from softprompts.export.sources import Job, Reading, as_record, reading_from

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

VECTORS = "prompt_embeds"  # name of the tensor, as in vLLM's field


@dataclass(frozen=True)
class SoftPrompt:
    """A task's exported soft prompt: vectors (P, H) float32, and the task's `Reading`."""

    vectors: torch.Tensor
    reading: Reading


def read_soft_prompt(folder: Path, task: str) -> SoftPrompt:
    """Return the soft prompt of a task from an export.

    Raises:
        UserError: the task is unknown, or its file is damaged.
    """
    record, file = folder / f"{task}.json", folder / f"{task}.safetensors"
    try:
        read: Any = json.loads(record.read_text(encoding="utf-8"))["task"]
        vectors = load_file(file)[VECTORS]
    except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
        raise UserError(f"{folder}: the soft prompt of {task} cannot be read: {short(error)}") from None
    reading = reading_from(task, read, record)
    if vectors.dim() != 2 or len(vectors) != reading.num_virtual_tokens:
        raise UserError(f"{file}: expected {reading.num_virtual_tokens} rows, found the shape {tuple(vectors.shape)}")
    return SoftPrompt(vectors, reading)


@torch.no_grad()
def prompt_tensor(soft_prompt: SoftPrompt, ids: Sequence[int], embedding: nn.Module) -> torch.Tensor:
    """Return the embeddings of a whole prompt: the soft prompt, then the text.

    Args:
        soft_prompt: the soft prompt, of P virtual tokens.
        ids: N token ids of the text, from `Reading.ids_of`.
        embedding: the base model's `get_input_embeddings()`.

    Returns:
        (P + N, H) in the embedding's type and on its device.
    """
    device = next(embedding.parameters()).device
    text: torch.Tensor = embedding(torch.tensor(list(ids), device=device))
    return torch.cat([soft_prompt.vectors.to(text), text])


def request_body(model: str, prompt: torch.Tensor, **settings: Any) -> dict[str, Any]:
    """Return the JSON body of a request to vLLM's Completions API.

    vLLM expects a tensor in the format of `torch.save`, in base64. Such a file is a pickle, so the server must trust
    its clients. This project writes such files for vLLM, and reads none.

    Args:
        model: the server's name of the base model.
        prompt: (P + N, H), from `prompt_tensor`.
        settings: further fields of the request, such as `max_tokens` and `temperature`.
    """
    buffer = io.BytesIO()
    torch.save(prompt.cpu().contiguous(), buffer)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    # OpenAI's client requires the field, and vLLM refuses an empty text.
    return {"model": model, "prompt": None, "prompt_embeds": encoded, **settings}


def write_prompt_embeds(job: Job, folder: Path) -> list[str]:
    """Write `TASK.safetensors` and `TASK.json` for each soft prompt, compare them with stock PEFT, and report it.

    Raises:
        UserError: the base model is not a decoder; an adapter has another type; a check fails.
    """
    base, tokenizer, prompts = load_prompts(job)
    model: Any = base
    lines = []
    for prompt in prompts:
        name = prompt.source.name
        save_file({VECTORS: prompt.vectors.cpu().contiguous()}, folder / f"{name}.safetensors", {"format": "pt"})
        record = {
            "base_model": job.model.name_or_path,
            "revision": job.model.revision,
            "task": as_record({name: prompt.reading}),
        }
        text = json.dumps(record, indent=2, ensure_ascii=False)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        written = read_soft_prompt(folder, name)

        def found_of(ids: list[int], outcome: Outcome, written: SoftPrompt = written) -> Outcome:
            def embedded(more: Sequence[int]) -> torch.Tensor:
                return prompt_tensor(written, [*ids, *more], base.get_input_embeddings())[None]

            tokens = greedy(model, tokenizer, job.config.max_new_tokens, inputs_embeds=embedded([]))
            with torch.inference_mode():
                whole = embedded(outcome.tokens)
                mask = torch.ones(whole.shape[:2], dtype=torch.long, device=whole.device)
                logits = model(inputs_embeds=whole, attention_mask=mask, use_cache=False).logits
            return Outcome(tokens, logits[0, -len(outcome.tokens) - 1 :].float().cpu())

        lines.append(compare(prompt, "prompt_embeds", found_of, base.dtype))
    return lines
