"""Add soft prompts to their base model as new tokens: one model for many tasks, served by text.

The input embeddings of a task's tokens `<|softprompts:TASK:0|>`, ... are its trained vectors. Any engine that reads
text thus reads the soft prompt. `request_text` builds the text of a request, and the chat template accepts
`task="TASK"`.

Greedy decoding cannot choose the new tokens. Their rows in the output embedding are the mean of all rows before them.
Their logit is thus the mean of all logits, which is below the largest unless all are equal. Sampling at any temperature
chooses each of them with a probability of at most 1 / V, by the inequality of arithmetic and geometric means, unless
the model caps its logits. The check reports the largest probability that it saw. A copy of another row would
lose ties in greedy decoding, but sampling would choose it as often as that row's token. An output embedding with a bias
gets -10,000 there. The tokens are also in `suppress_tokens` of the generation settings, which transformers uses and
most engines ignore.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from softprompts.errors import UserError, short
from softprompts.export.agreement import Outcome, TrainedPrompt, compare, greedy, load_prompts, logits_after
from softprompts.export.sources import Job, Reading, as_record, reading_from, row_text
from softprompts.models.loading import default_device, embedding_scale, model_path
from softprompts.models.reading import read_tokenizer, reading, silent_transformers

import torch
from tokenizers import AddedToken
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

MARK = "<|softprompts:"
BROKEN = "< |softprompts:"  # replaces MARK in a user's text; it is not a token
RECORD = "softprompts.json"
BLOCK = 16  # tokens per cache block of vLLM
NEVER = -1e4  # bias of a token that is never generated; within the range of float16


def tokens_of(task: str, count: int) -> list[str]:
    """Return the tokens of a task's soft prompt, in their order."""
    return [f"{MARK}{task}:{number}|>" for number in range(count)]


def escaped(text: str) -> str:
    """Return a text without tokens of soft prompts: `<|softprompts:` becomes `< |softprompts:`."""
    return text.replace(MARK, BROKEN)


def read_tasks(folder: Path) -> dict[str, Reading]:
    """Return the `Reading` of each task of an exported model.

    Raises:
        UserError: the folder's record is missing or damaged.
    """
    file = folder / RECORD
    try:
        record: Any = json.loads(file.read_text(encoding="utf-8"))["tasks"]
        names = list(record)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{file}: cannot be read: {short(error)}") from None
    return {name: reading_from(name, record, file) for name in names}


def request_text(task: str, read: Reading, tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return the text of a request: a task's tokens, then the text without such tokens.

    Tokenize it with `add_special_tokens=False`. Tokens that precede a text, such as `<s>`, follow the task's tokens
    here, as they do in PEFT.

    Args:
        task: name of the task.
        read: the task's reading, from `read_tasks`.
        tokenizer: the exported model's tokenizer.
        text: the whole prompt, from `Reading.text_of`.
    """
    head = "".join(tokenizer.convert_ids_to_tokens(read.head_ids))
    return "".join(tokens_of(task, read.num_virtual_tokens)) + head + escaped(text)


def write_vocabulary(job: Job, folder: Path) -> list[str]:
    """Write the base model with all soft prompts as vocabulary, compare it with stock PEFT, and return lines about it.

    The weights keep the type that the base model was loaded in (`model.dtype`). PEFT also rounds a soft prompt to that
    type before the first layer.

    Raises:
        UserError: the base model is not a decoder, is quantised or already has soft prompts; an adapter has another
            type; a check fails.
    """
    if job.model.quantization != "none":
        raise UserError("model.quantization: export.to vocabulary requires unquantised weights; set it to none")
    base, _, prompts = load_prompts(job)
    tokenizer = read_tokenizer(model_path(job.model), job.model.revision)
    ids = _add_tokens(tokenizer, prompts)
    rounding = add_rows(base, ids, torch.cat([prompt.vectors for prompt in prompts]))
    counts = {prompt.source.name: len(prompt.vectors) for prompt in prompts}
    if tokenizer.chat_template:
        tokenizer.chat_template = _each_template(tokenizer.chat_template, counts)
    _save(base, tokenizer, ids, folder)
    _keep_names(Path(model_path(job.model)), folder)
    readings = {prompt.source.name: prompt.reading for prompt in prompts}
    record = {
        "base_model": job.model.name_or_path,
        "revision": job.model.revision,
        "add_special_tokens": False,
        "tasks": as_record(readings),
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    dtype = base.dtype
    del base
    lines = _check(job, folder, prompts, ids, dtype)
    if rounding:
        name = str(dtype).removeprefix("torch.")
        lines.append(f"rounding to {name} changes a soft prompt by at most {rounding:.1e} of its largest value")
    return lines + [_advice(name, count) for name, count in counts.items() if count % BLOCK]


def _advice(name: str, count: int) -> str:
    whole = -(-count // BLOCK) * BLOCK
    return (
        f"{name}: vLLM caches prompts in blocks of {BLOCK} tokens, and {count} virtual tokens do not fill whole "
        f"blocks; num_virtual_tokens {whole} would"
    )


def _add_tokens(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[TrainedPrompt]) -> list[int]:
    """Add the tokens of all soft prompts to a tokenizer, and return their ids."""
    if old := next((token for token in tokenizer.get_vocab() if token.startswith(MARK)), None):
        raise UserError(
            f"model.name_or_path: {tokenizer.name_or_path} already has soft prompts, such as {short(old)}; "
            "export all tasks together from the base model"
        )
    names = [token for prompt in prompts for token in tokens_of(prompt.source.name, len(prompt.vectors))]
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in names], special_tokens=True)
    return ids_of(tokenizer, names)


def ids_of(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> list[int]:
    """Return the ids of tokens that the tokenizer knows."""
    return [int(number) for number in cast(list[int], tokenizer.convert_tokens_to_ids(list(tokens)))]


@torch.no_grad()
def add_rows(model: Any, ids: Sequence[int], vectors: torch.Tensor) -> float:
    """Add new tokens to a decoder, with these vectors as input embeddings, whose logits are never the largest.

    Args:
        model: the decoder, changed in place; an output embedding that shares the input's weights gets a copy.
        ids: P token ids, whose rows no other token uses.
        vectors: (P, H) float32.

    Returns:
        The largest change of a value by rounding to the model's type, relative to the largest value.
    """
    _untie(model)
    rows = len(model.get_input_embeddings().weight)
    model.resize_token_embeddings(max(rows, max(ids) + 1), mean_resizing=False)
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    wanted = vectors.to(table.weight.device)
    table.weight[ids] = (wanted / embedding_scale(table)).to(table.weight.dtype)
    head.weight[ids] = _mean_of_others(head.weight[:rows], ids).to(head.weight.dtype)
    if getattr(head, "bias", None) is not None:
        head.bias[ids] = NEVER
    rounded = wanted.to(table.weight.dtype).float()
    return float((rounded - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))


def _mean_of_others(rows: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
    """Return the mean of all rows but those with these numbers, float64. Some base models have unused rows."""
    spare = rows[[number for number in ids if number < len(rows)]]
    return (rows.sum(0, dtype=torch.float64) - spare.sum(0, dtype=torch.float64)) / (len(rows) - len(spare))


def _untie(model: Any) -> None:
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head.weight.data_ptr() == table.weight.data_ptr():
        head.weight = nn.Parameter(table.weight.detach().clone(), requires_grad=False)
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False


def _each_template(template: Any, counts: Mapping[str, int]) -> Any:
    if isinstance(template, dict):
        return {name: with_task(text, counts) for name, text in template.items()}
    return with_task(template, counts)


def with_task(template: str, counts: Mapping[str, int]) -> str:
    """Return a chat template with an argument `task`, which puts the task's tokens before everything else.

    The output of the original template, including messages and tools, has no tokens of soft prompts.

    Args:
        template: the original template, in Jinja.
        counts: numbers of virtual tokens by task.
    """
    prompts = json.dumps({name: "".join(tokens_of(name, count)) for name, count in counts.items()})
    # Jinja removes the line break after a tag, and the last one of a template.
    body = template.removesuffix("\n")
    return (
        "{%- if task is defined and task is not none -%}"
        f"{{%- set softprompts = {prompts} -%}}"
        "{%- if task not in softprompts -%}"
        '{{- raise_exception("no task " ~ task ~ "; there are: " ~ softprompts | join(", ")) -}}'
        "{%- endif -%}{{- softprompts[task] -}}{%- endif -%}"
        f"{{% filter replace({json.dumps(MARK)}, {json.dumps(BROKEN)}) %}}\n{body}{{% endfilter %}}"
    )


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], folder: Path) -> None:
    settings: Any = model.generation_config
    if settings is not None:
        # Without the mark of settings that come from config.json, which transformers may replace.
        kept = {key: value for key, value in settings.to_dict().items() if not key.startswith("_")}
        suppressed = [*(settings.suppress_tokens or []), *ids]
        model.generation_config = GenerationConfig.from_dict(kept | {"suppress_tokens": suppressed})
    with silent_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _keep_names(base: Path, folder: Path) -> None:
    """Keep settings that transformers 4 reads and transformers 5 does not write; an engine may use version 4."""
    for name, key in (("config.json", "rope_theta"), ("tokenizer_config.json", "tokenizer_class")):
        if (base / name).is_file():
            before, now = (json.loads((place / name).read_text(encoding="utf-8")) for place in (base, folder))
            if key in before:
                text = json.dumps(now | {key: before[key]}, indent=2, ensure_ascii=False)
                (folder / name).write_text(text + "\n", encoding="utf-8")


def _check(
    job: Job, folder: Path, prompts: Sequence[TrainedPrompt], ids: Sequence[int], dtype: torch.dtype
) -> list[str]:
    """Load the export with transformers only, and compare it with stock PEFT, starting from a request's text."""
    with reading(str(folder)), silent_transformers():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    model.to(default_device())
    lines, largest = [], 0.0
    for prompt in prompts:
        name, count = prompt.source.name, len(prompt.vectors)
        own = ids_of(tokenizer, tokens_of(name, count))
        for row, row_ids in zip(prompt.source.task.splits["test"], prompt.prompts, strict=True):
            _check_text(prompt, tokenizer, row_text(prompt.reading, tokenizer, row), [*own, *row_ids], row.prompt)

        def found_of(row_ids: list[int], outcome: Outcome, own: list[int] = own) -> Outcome:
            nonlocal largest
            whole = [*own, *row_ids]
            read = torch.tensor([whole], device=model.device)
            tokens = greedy(model, tokenizer, job.config.max_new_tokens, input_ids=read)[len(whole) :]
            logits = logits_after(model, [*whole, *outcome.tokens], len(outcome.tokens))
            largest = max(largest, _written(logits, ids))
            return Outcome(tokens, _of_base(logits, ids, outcome.logits))

        lines.append(compare(prompt, "vocabulary", found_of, dtype))
    lines.append(f"probability of a new token, at most: {largest:.1e}")
    return lines


def _check_text(
    prompt: TrainedPrompt, tokenizer: PreTrainedTokenizerBase, text: str, expected: list[int], said: str
) -> None:
    """Raise `UserError` unless a request's text, and the chat template, become the tokens that PEFT reads."""
    name, read = prompt.source.name, prompt.reading
    texts = [request_text(name, read, tokenizer, text)]
    if read.chat:
        messages = [{"role": "system", "content": read.system}] if read.system else []
        messages.append({"role": "user", "content": said})
        texts.append(
            str(tokenizer.apply_chat_template(messages, task=name, tokenize=False, add_generation_prompt=True))
        )
    for each in texts:
        if tokenizer(each, add_special_tokens=False).input_ids != expected:
            raise UserError(
                f"export.to: vocabulary failed its check, and nothing was written: after the tokens of {name} the "
                f"tokenizer splits {short(repr(text))} differently; export.to prompt_embeds does not depend on it"
            )


def _of_base(logits: torch.Tensor, ids: Sequence[int], before: torch.Tensor) -> torch.Tensor:
    """Return logits without those of new tokens; an unused row of the base model counts as unchanged."""
    size = before.shape[1]
    spare = [number for number in ids if number < size]
    kept = logits[:, :size].clone()
    kept[:, spare] = before[:, spare]
    return kept


def _written(logits: torch.Tensor, ids: Sequence[int]) -> float:
    """Return the largest probability of a new token, and raise `UserError` if one is the likeliest."""
    if bool(torch.isin(logits.argmax(-1), torch.tensor(ids)).any()):
        raise UserError(
            "export.to: vocabulary failed its check, and nothing was written: a new token would be generated"
        )
    return float(logits.softmax(-1)[:, list(ids)].max())
