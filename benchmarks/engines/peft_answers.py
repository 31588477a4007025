"""Stock PEFT's greedy answers, one row at a time, for comparison with an engine's.

    python -m benchmarks.engines.peft_answers FOLDER NAME=ADAPTER [NAME=ADAPTER ...]

Writes to FOLDER/answers.json the answers to rows of home_commands' validation split: with each adapter and without one,
in float32 and in bfloat16.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from softprompts.data.sources import DATA_DIR
from softprompts.models.bundled import resolve
from softprompts.system.files import write_atomically

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

MODEL = "bundled:smollm2-135m-instruct"
ROWS = 24  # for each adapter
WITHOUT = 6  # rows that are answered without an adapter as well
NEW_TOKENS = 40
DTYPES = ("float32", "bfloat16")


def main(folder: Path, adapters: dict[str, str]) -> None:
    """Write the answers."""
    model = resolve(MODEL)
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = prompts()
    answers: list[dict[str, Any]] = []
    for dtype in DTYPES:
        for adapter in [*adapters, None]:
            base: Any = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
            tuned = PeftModel.from_pretrained(base, adapters[adapter]).eval() if adapter else base
            for text in texts if adapter else texts[:WITHOUT]:
                ids = tokenizer(text)["input_ids"]
                answers.append(
                    {"dtype": dtype, "adapter": adapter, "text": text, "prompt": ids} | answer(tuned, ids, NEW_TOKENS)
                )
            print(f"{dtype}, {adapter or 'no adapter'}: {len(answers)} answers so far", flush=True)
    record = {"model": model, "new_tokens": NEW_TOKENS, "answers": answers}
    write_atomically(folder / "answers.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def prompts() -> list[str]:
    """Return the prompts of English rows, in the template of the task's config."""
    lines = (DATA_DIR / "home_commands" / "validation.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["language"] == "en"]
    return [f"{row['text']}\nCommand:" for row in rows[:ROWS]]


@torch.no_grad()
def answer(model: Any, ids: list[int], new_tokens: int) -> dict[str, Any]:
    """Return a greedy answer's ids, and the margin of each one's logit over the second largest."""
    given = torch.tensor([ids])
    out = model.generate(
        input_ids=given,
        attention_mask=torch.ones_like(given),
        do_sample=False,
        max_new_tokens=new_tokens,
        return_dict_in_generate=True,
        output_logits=True,
    )
    largest = [logits[0].float().topk(2).values for logits in out.logits]
    made = out.sequences[0, -len(largest) :].tolist()
    return {"answer": made, "margins": [round(float(one - two), 5) for one, two in largest]}


if __name__ == "__main__":
    main(Path(sys.argv[1]), dict(argument.split("=", 1) for argument in sys.argv[2:]))
