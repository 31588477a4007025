"""Warn of control tokens in the text of rows, which the model would not read as text."""

from __future__ import annotations

import re
import string
from collections import Counter
from functools import cache

from softprompts.errors import warn
from softprompts.tasks.rows import texts_of
from softprompts.tasks.task import Task
from softprompts.tasks.templates import render

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

# A further prompt template, or a longer soft prompt, reads the same rows again.
warn_once = cache(warn)


def control_tokens(task: Task, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return a warning if values in prompts contain special tokens of the tokenizer, such as `<|im_start|>`.

    Templates and targets may contain them on purpose. Targets are compared as text.
    """
    named = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    known = sorted(named.union(tokenizer.all_special_tokens), key=len, reverse=True)
    # A tokenizer with `split_special_tokens` reads them as text.
    acting = [t for t in known if len(tokenizer(t, add_special_tokens=False).input_ids) == 1]
    pattern = re.compile("|".join(map(re.escape, acting)) or r"(?!)")
    template = task.config.prompt
    meant = Counter(pattern.findall("".join(literal for literal, *_ in string.Formatter().parse(template))))
    first, count, total = "", 0, 0
    for rows in {id(rows): rows for rows in task.splits.values()}.values():
        for number, text in enumerate(texts_of(rows)):
            # A prompt may have them from few-shot examples; the row's own are in its record.
            if not pattern.search(text.prompt):
                continue
            found = Counter(pattern.findall(render(template, rows[number].record, text.place))) - meant
            if found:
                count += 1
                first = first or f'"{next(iter(found))}" in {text.place}'
        total += len(rows)
    said = (
        f"task.prompt: {count:,} of {total:,} rows contain control tokens of the tokenizer, e.g. {first}; "
        "the model does not read them as text; remove them unless they are intended"
    )
    return [said] if count else []
