"""Wrong results: compare our scores and answers with stock PEFT's, one unpadded row at a time, on random cases."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import random
from pathlib import Path
from typing import Any

from bases import make_tokenizer, save_base
from drawn import Drawn, draw
from reference import NEW_TOKENS, Reference
from softprompts.adapters.loading import load_adapter, virtual_tokens
from softprompts.config.sections import EvaluationConfig, ModelConfig, TaskConfig
from softprompts.config.tools import AdapterConfig
from softprompts.encoding.documents import EncodedTask, with_soft_prompt
from softprompts.encoding.tokenization import encode
from softprompts.engine.build import make_engine
from softprompts.engine.forward import Engine
from softprompts.errors import UserError
from softprompts.evaluation.predict import Outcome, predict
from softprompts.models.loading import AUTO, Kind, input_spec, kind_of, load_base_model
from softprompts.tasks.task import load_task

import torch
from accelerate import Accelerator
from peft import (
    LoraConfig,
    MultitaskPromptTuningConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from transformers import AutoConfig, AutoTokenizer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

TASK_TYPES: dict[Kind, str] = {"decoder": "CAUSAL_LM", "encoder-decoder": "SEQ_2_SEQ_LM", "encoder": "SEQ_CLS"}


def run(number: int, seed: int, folder: Path) -> list[str]:
    """Return the faults of a case: each is its kind, a colon, and its description."""
    rng = random.Random(f"parity {seed} {number}")
    drawn = draw(rng)
    (folder / "case.txt").write_text(f"{drawn}\n", encoding="utf-8")
    torch.manual_seed(number)
    base, adapter = folder / "base", folder / "adapter"
    names = _classes(drawn, rng)
    save_base(
        base,
        drawn.model_type,
        make_tokenizer(drawn.tokens),
        number,
        drawn.extra,
        drawn.positions,
        drawn.generation,
        **drawn.settings | ({"id2label": names, "label2id": {v: k for k, v in names.items()}} if names else {}),
    )
    kind = kind_of(AutoConfig.from_pretrained(base))
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = _stock(base, adapter, drawn, kind, number)
    if model is None:
        return []
    file = folder / "rows.jsonl"
    columns = [{"text": text, "label": label} for text, label in drawn.rows]
    file.write_text("".join(json.dumps(row) + "\n" for row in columns), encoding="utf-8")
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            data, engine, outcome = _ours(drawn, base, adapter if drawn.method != "none" else None, file)
            with torch.no_grad():
                reference = Reference(model, tokenizer, kind, drawn, data, names)
                faults = [*reference.ids_are_right(), *reference.scores_agree(outcome)]
                if drawn.labels is None:
                    faults += [*reference.answers_agree(outcome), *reference.targets_come_back(engine, said.getvalue())]
    except UserError as error:
        excused = _excuse(drawn, tokenizer, base)
        return [] if excused else [f"needless refusal: {error}"]
    return faults


def _classes(drawn: Drawn, rng: random.Random) -> dict[int, str] | None:
    """Return a classifier's names of its outputs, in its own order; None for a model without a classifier."""
    if drawn.model_type not in ("bert", "roberta"):
        return None
    assert drawn.labels is not None
    words = list(drawn.labels.values()) if isinstance(drawn.labels, dict) else drawn.labels
    distinct = list(dict.fromkeys(word.strip() for word in words))
    return dict(enumerate(rng.sample(distinct, len(distinct))))


def _stock(base: Path, adapter: Path, drawn: Drawn, kind: Kind, seed: int) -> Any:
    """Save an adapter with random weights and return it, loaded again by PEFT alone.

    None if PEFT has no such method for the architecture, or transformers refuses the model's settings.
    """
    common: dict[str, Any] = {"task_type": TASK_TYPES[kind], "num_virtual_tokens": 4}
    configs: dict[str, PeftConfig] = {
        "prompt": PromptTuningConfig(**common),
        "prefix": PrefixTuningConfig(**common),
        "p-tuning": PromptEncoderConfig(encoder_hidden_size=16, **common),
        "lora": LoraConfig(task_type=TASK_TYPES[kind], r=4, init_lora_weights=False, target_modules="all-linear"),
        "multitask": MultitaskPromptTuningConfig(num_tasks=3, **common),
    }
    load = AUTO[kind].from_pretrained
    if drawn.method == "multitask" and kind == "encoder":
        return None
    try:
        if drawn.method == "none":
            return load(base).eval()
        tuned: Any = get_peft_model(load(base), configs[drawn.method])
        torch.manual_seed(seed)
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, 0, 0.4)
        tuned.save_pretrained(str(adapter))
        model = PeftModel.from_pretrained(load(base), str(adapter)).eval()
        ids = torch.tensor([[5, 6, 7]])
        more = {"decoder_input_ids": ids} if kind == "encoder-decoder" else {}
        more |= {"task_ids": torch.tensor([0])} if drawn.method == "multitask" else {}
        model(input_ids=ids, attention_mask=torch.ones_like(ids), **more)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, NotImplementedError, IndexError):
        return None
    return model


def _ours(drawn: Drawn, base: Path, adapter: Path | None, file: Path) -> tuple[EncodedTask, Engine, Outcome]:
    """Evaluate as recipes/evaluate.py does."""
    model = ModelConfig(str(base), engine=drawn.engine)
    labels: Any = drawn.labels
    if isinstance(labels, list):
        labels = [drawn.space + label for label in labels]
    elif labels is not None:
        labels = {drawn.space + label: drawn.space + word for label, word in labels.items()}
    task = TaskConfig(
        prompt=drawn.prompt,
        target=drawn.space + "{label}",
        train=str(file),
        validation=str(file),
        test=str(file),
        choices=labels,
        metrics=["accuracy" if labels else "exact_match"],
        chat=drawn.tokens.chat,
    )
    rows = load_task(task)
    loaded, tokenizer = load_base_model(model, torch.device("cpu"), rows.choices)
    config = AdapterConfig(
        str(adapter) if adapter else None, task_id=drawn.task_id if drawn.method == "multitask" else 0
    )
    tuned = load_adapter(loaded, config)
    data = with_soft_prompt(encode(rows, tokenizer, input_spec(loaded, virtual_tokens(tuned))), config.task_id)
    engine = make_engine(tuned, tokenizer, config=model, data=data, say=drawn.said.append)
    evaluation = EvaluationConfig(batch_size=drawn.batch, max_new_tokens=NEW_TOKENS)
    return data, engine, predict(engine, data.test, evaluation, Accelerator(cpu=True), "testing")


def _excuse(drawn: Drawn, tokenizer: PreTrainedTokenizerBase, base: Path) -> bool:
    """Return whether a case may be refused."""
    listed = drawn.labels.values() if isinstance(drawn.labels, dict) else drawn.labels
    words = sorted(set(listed)) if listed else [label for _, label in drawn.rows]
    prompts = [drawn.prompt.format(text=text) for text, _ in drawn.rows]
    ids = [tokenizer(word.strip(), add_special_tokens=False).input_ids for word in words]
    nested = any(b[: len(a)] == a for a, b in itertools.permutations(ids, 2))
    equal = len({tuple(i) for i in ids}) < len(ids)
    lossy = any(str(tokenizer.decode(i)).strip() != word.strip() for i, word in zip(ids, words, strict=True))
    unknown = any(tokenizer.unk_token_id in i for i in ids)  # in a row of them the tokenizer may write but one
    longest = max(len(tokenizer(text).input_ids) for text in prompts) + max(map(len, ids)) + 40 * drawn.tokens.chat
    # A label that ends in the token which ends all labels cannot be told apart.
    marked = any(i[-1] in tokenizer.all_special_ids and i[-1] != tokenizer.unk_token_id for i in ids if i)
    no_end = drawn.tokens.eos is False and not drawn.tokens.chat
    return (
        (bool(listed) and equal)
        or (bool(listed) and nested and (no_end or marked))
        or (not listed and (lossy or no_end))
        or not all(ids)
        or unknown
        or drawn.extra < 0
        or longest + 4 + NEW_TOKENS + 2 > drawn.positions
    )
