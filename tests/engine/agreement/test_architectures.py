"""Supported model architectures: the table in docs/architectures.md, made again from tiny random models."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

from helpers import ROOT
from made_models import ARCHITECTURES, STATES, VOCABULARY, WINDOW, make_base, make_config
from softprompts.encoding.documents import Document
from softprompts.engine.build import disagreement
from softprompts.engine.forward import Engine
from softprompts.engine.generation import answers
from softprompts.methods.attach import TASK_TYPES
from softprompts.methods.catalog import METHODS as CATALOG
from softprompts.models.loading import kind_of

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model

# One worker for all tests, because they share the results of `row`.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore"), pytest.mark.xdist_group("architectures")]

PAGE = ROOT / "docs" / "architectures.md"
AGAIN = "SOFTPROMPTS_WRITE=1 python -m pytest tests/engine/agreement/test_architectures.py"
VIRTUAL, NEW_TOKENS, GENERATE = 5, 5, "generate"
METHODS = {  # and their names in the catalog
    "prompt tuning": "prompt_tuning",
    "prefix tuning": "prefix_tuning",
    "LoRA": "lora",
    "full": "full_finetuning",
}
MUST_BE_PACKED = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi", "gpt2", "gpt_neox", "opt"]

NOT_PACKED = "packed is for decoders: other kinds of models read a soft prompt together with each text"

Cell = tuple[str, str]  # text in the table, and the reason for its footnote; no footnote if it is empty


def make_documents() -> list[Document]:
    """Return documents of different lengths, two with a common prompt; most are longer than the sliding windows."""
    generator = torch.Generator().manual_seed(0)

    def text(tokens: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, VOCABULARY, (tokens,), generator=generator).tolist())

    prompt = text(7)
    ends = [Document(prompt, text(2)), Document(prompt, text(3))]
    return [*ends, Document(text(3), text(1)), Document(text(14), text(4)), Document(text(20), text(2))]


DOCUMENTS = make_documents()
TOKENIZER: Any = SimpleNamespace(eos_token_id=None)


def attach(model_type: str, method: str) -> Any:
    """Return a tiny random model with random trainable parameters of `method`."""
    base = make_base(model_type)
    if method == "full":
        return base.requires_grad_(True)
    soft: dict[str, Any] = {"task_type": TASK_TYPES[kind_of(base.config)], "num_virtual_tokens": VIRTUAL}
    configs: dict[str, Callable[[], Any]] = {
        "prompt tuning": lambda: PromptTuningConfig(**soft, num_transformer_submodules=1),
        "prefix tuning": lambda: PrefixTuningConfig(**soft),
        "LoRA": lambda: LoraConfig(task_type=soft["task_type"], target_modules="all-linear", init_lora_weights=False),
    }
    torch.manual_seed(1)
    model = get_peft_model(base, configs[method]()).eval()
    if method == "prefix tuning":
        torch.nn.init.normal_(model.prompt_encoder["default"].embedding.weight)
    return model


def why_not_trained(model: Any, loss: torch.Tensor) -> str:
    """Return why a loss trains no parameter of the method, apart from heads; empty if it trains one."""
    if not loss.isfinite():
        return "the loss is not finite"
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    added = [p for name, p in named.items() if "prompt_encoder" in name or "lora_" in name] or [*named.values()]
    gradients = torch.autograd.grad(loss, added, allow_unused=True) if loss.requires_grad else ()
    size = sum(float(gradient.norm()) for gradient in gradients if gradient is not None)
    return "" if 0 < size < float("inf") else "no gradient reaches what is trained"


def short(error: Exception) -> str:
    """Return the first line of an error, cut, for a footnote."""
    line = next(iter(str(error).strip().splitlines()), "")
    return shortened(f"{type(error).__name__}: {line}" if line else type(error).__name__)


def shortened(reason: str) -> str:
    """Return a reason without parts that vary between machines, short enough for a footnote."""
    reason = re.sub(r"^the loss is .* instead of .*", "the loss differs", reason)
    reason = re.sub(r"^the gradient is off by .*", "the gradient differs", reason)
    reason = re.split(r"(?<=[.!?]) (?=[A-Z])", re.sub(r"-?\d+\.\d+(e[+-]?\d+)?", "...", reason))[0]
    return reason if len(reason) <= 120 else reason[:117].rstrip() + "..."


def support(model_type: str, method: str) -> Cell:
    """Say whether the packed forward works for a method, only PEFT's own, or neither."""
    kind = kind_of(make_config(model_type))
    known = CATALOG[METHODS[method]]
    if kind not in known.kinds:
        return "no", known.refusals[kind]
    # An encoder's target is the number of one of two choices.
    documents = [replace(d, target_ids=(d.target_ids[0] % 2,)) for d in DOCUMENTS] if kind == "encoder" else DOCUMENTS
    try:
        model = attach(model_type, method)
        engine = Engine(model, TOKENIZER)
        if reason := why_not_trained(model, engine(documents).nll().mean()):
            return "no", reason
    except Exception as error:  # the table reports every error of a model
        return "no", short(error)
    if kind != "decoder":
        return "stock", NOT_PACKED
    difference = disagreement(engine, documents)
    return ("stock", "packed: " + shortened(difference)) if difference else ("packed", "")


def generates(model_type: str) -> Cell:
    """Return whether a row has the same continuation alone, in a batch with longer rows, and in PEFT."""
    if (kind := kind_of(make_config(model_type))) == "encoder":
        return "no", CATALOG["hard_prompt"].refusals[kind]
    prompts = sorted((d.prompt_ids for d in DOCUMENTS[1:]), key=len)  # in the order that calls go by length

    def recorded(write: Callable[..., Any], model: Any, *args: Any, **more: Any) -> tuple[Any, torch.Tensor]:
        # The logits (rows, tokens, vocabulary), too: different ones may well lead to the same tokens.
        logits: list[torch.Tensor] = []
        head = model.get_output_embeddings()
        hook = head.register_forward_hook(
            lambda _, __, output: logits.append(output[:, -1].clone()) if output.shape[1] else None
        )
        ids = write(*args, **more)
        hook.remove()
        calls = [torch.stack(logits[i : i + NEW_TOKENS], dim=1) for i in range(0, len(logits), NEW_TOKENS)]
        return [row[-NEW_TOKENS:] for row in (ids if isinstance(ids, list) else ids.tolist())], torch.cat(calls)

    def alike(one: tuple[list[list[int]], torch.Tensor], other: tuple[list[list[int]], torch.Tensor]) -> bool:
        return one[0] == other[0] and torch.allclose(one[1], other[1], rtol=1e-3, atol=1e-3)

    try:
        model = attach(model_type, "prompt tuning")
        engine = Engine(model, TOKENIZER, packed=True)
        base = Engine(model.get_base_model(), TOKENIZER, packed=True)
        without = recorded(written_by(base), model, prompts)
        together = recorded(written_by(engine), model, prompts)
        if alike(together, without):  # of a long text, narrow windows may not see the soft prompt any more
            return "no", "the soft prompt changes nothing"
        for index, prompt in enumerate(prompts):
            ids = torch.tensor([prompt])
            alone = recorded(written_by(engine), model, [prompt])
            settings: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "pad_token_id": 0, "do_sample": False}
            if not alike(alone, recorded(model.generate, model, input_ids=ids, max_new_tokens=NEW_TOKENS, **settings)):
                return "no", "a single row is continued differently than by PEFT"
            if not alike(alone, ([together[0][index]], together[1][index : index + 1])):
                return "no", "what a row gets depends on how far it is padded"
        if not go_on_alike(engine, prompts):
            return "no", "what a row gets depends on whether others have ended"
    except Exception as error:
        return "no", short(error)
    return "yes", ""


def written_by(engine: Engine) -> Callable[[list[tuple[int, ...]]], list[list[int]]]:
    """Return an engine's function that continues prompts, as token ids."""
    return lambda prompts: answers(engine, prompts, {"max_new_tokens": NEW_TOKENS})


def go_on_alike(engine: Engine, prompts: list[tuple[int, ...]]) -> bool:
    """Say whether rows are continued as alone once the second token of half of them, but no other, is made an end."""
    write = written_by(engine)
    whole = [write([prompt])[0] for prompt in prompts]
    engine.ends = tuple(tokens[1] for tokens in whole[: (len(whole) + 1) // 2])
    try:
        return write(prompts) == [write([prompt])[0] for prompt in prompts]
    finally:
        engine.ends = ()


@cache
def row(model_type: str) -> tuple[str, dict[str, Cell]]:
    """Return the class of the models of a type, and the cells of its row."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # all models here fit on one
    with torch.random.fork_rng():
        cells = {method: support(model_type, method) for method in METHODS} | {GENERATE: generates(model_type)}
        name = type(make_base(model_type)).__name__
    torch.set_num_threads(threads)
    return name, cells


HEAD = f"""\
# Architectures

`tests/engine/agreement/test_architectures.py` makes this page. To make it again:

    {AGAIN}

The table comes from tiny random models with the default attention implementation. It shows whether the code works, not
how well a model learns.

- `packed`: loss and gradient of the packed forward pass match those of PEFT's own forward pass.
- `stock`: only PEFT's own forward pass works, and `model.engine: auto` uses it. The footnote gives the reason.
- `no`: PEFT's own forward pass fails with its default settings, has no gradient, or does not suit the method. The
  footnote gives the reason. The recipes report it before they load anything; so does
  `python -m softprompts.methods.preflight NAME_OR_PATH`.
- `{GENERATE}`: after a soft prompt, `engine.generation` gives a row alone the same greedy tokens and logits as in a
  batch with longer rows. This also holds if some of these end earlier. PEFT's `generate` does so for a single row.

Prompt and prefix tuning: {VIRTUAL} virtual tokens. LoRA: `target_modules="all-linear"`. Full: all weights are trained.
Sliding windows ({WINDOW["sliding_window"]} tokens) are shorter than most of the texts.
"""


def page() -> str:
    """Return the text of docs/architectures.md."""
    columns = [*METHODS, GENERATE]
    lines = ["| " + " | ".join(["model type", "class", "models, for example", *columns]) + " |", "|---" * 8 + "|"]
    notes: dict[str, int] = {}
    for model_type in sorted(ARCHITECTURES):
        name, cells = row(model_type)
        texts = []
        for word, reason in (cells[column] for column in columns):
            texts.append(f"{word}[^{notes.setdefault(reason, len(notes) + 1)}]" if reason else word)
        lines.append(f"| `{model_type}` | {name} | {ARCHITECTURES[model_type][0]} | {' | '.join(texts)} |")
    footnotes = [f"[^{number}]: {reason}" for reason, number in notes.items()]
    return "\n".join([HEAD, *lines, "", *footnotes]) + "\n"


@pytest.mark.parametrize("model_type", MUST_BE_PACKED)
def test_common_architectures_are_packed(model_type: str) -> None:
    for method in ("prompt tuning", "LoRA"):
        assert row(model_type)[1][method] == ("packed", ""), method


# Without a soft prompt, a model has the cache that it makes itself.
@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2", "mamba", "falcon_h1", "lfm2"])
def test_rows_go_on_as_alone_where_others_have_ended(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, settings in STATES.items():
        monkeypatch.setitem(ARCHITECTURES, name, ("", settings))
    prompts = [tuple(range(start, start + 6)) for start in (5, 20, 40, 60, 80)]  # of one length: a state reads padding
    assert go_on_alike(Engine(make_base(model_type), TOKENIZER, packed=True), prompts)


def test_the_page_says_what_works() -> None:
    made = page()
    if os.environ.get("SOFTPROMPTS_WRITE") == "1":
        PAGE.write_text(made, encoding="utf-8")
    written = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    if written != made:
        changes = "\n".join(
            difflib.unified_diff(written.splitlines(), made.splitlines(), "written", "made", "", "", 0, "")
        )
        pytest.fail(f"{PAGE.relative_to(ROOT)} is out of date. Look at the changes; then run {AGAIN}\n{changes}", False)
