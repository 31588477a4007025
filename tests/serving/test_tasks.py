"""Adapters that a running server loads: it keeps their learned values, without PEFT's wrapper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from helpers import by_hand, load_base, load_tuned
from softprompts.config.sections import ModelConfig
from softprompts.encoding.endings import read_answer
from softprompts.engine.forward import Engine
from softprompts.errors import UserError
from softprompts.models.loading import load_base_model
from softprompts.serving.batch import Batch, Row
from softprompts.serving.tasks import Tasks

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from transformers import LlamaForCausalLM

PROMPT = tuple(range(20, 33))


def saved(tiny_model: Path, folder: Path, seed: int = 0, tokens: int = 5) -> str:
    """Save a prompt whose embeddings are drawn by a seed, and return its folder."""
    model, _ = load_tuned(tiny_model, tokens, seed)
    model.save_pretrained(str(folder))
    return str(folder)


def served(tiny_model: Path, **settings: int) -> Tasks:
    return Tasks(*load_base(tiny_model), **settings)


def answer(tasks: Tasks, name: str) -> list[int]:
    row = Row(PROMPT, tasks.front(tasks.get(name)), 8)
    batch = Batch(tasks.base, Engine(tasks.base, tasks.tokenizer).ends)
    batch.join([row])
    while batch.rows:
        batch.step()
    return row.written


def test_each_task_answers_as_its_adapter_does_in_peft(tiny_model: Path, tmp_path: Path) -> None:
    tasks = served(tiny_model)
    for seed in (0, 1):
        tasks.add(f"t{seed}", saved(tiny_model, tmp_path / str(seed), seed))
    base, _ = load_base(tiny_model)
    prefix = get_peft_model(base, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    prefix.save_pretrained(str(tmp_path / "prefix"))
    tasks.add("prefix", str(tmp_path / "prefix"))
    assert tasks.names == ["base", "t0", "t1", "prefix"]
    models = {"t0": load_tuned(tiny_model, 5, 0)[0], "t1": load_tuned(tiny_model, 5, 1)[0], "prefix": prefix.eval()}
    models["base"] = load_base(tiny_model)[0]
    written = {name: read_answer(tasks.tokenizer, answer(tasks, name), ()) for name in models}
    assert written == {name: by_hand(Engine(m, tasks.tokenizer), PROMPT, 8) for name, m in models.items()}
    assert len(set(written.values())) == 4


def test_the_base_model_is_as_it_was(tiny_model: Path, tmp_path: Path) -> None:
    tasks = served(tiny_model)
    before = {name: tensor.clone() for name, tensor in tasks.base.state_dict().items()}
    tasks.add("t", saved(tiny_model, tmp_path / "t"))
    tasks.remove("t")
    assert tasks.names == ["base"]
    assert {name: torch.equal(t, before[name]) for name, t in tasks.base.state_dict().items()} == dict.fromkeys(
        before, True
    )


def test_keys_and_values_are_computed_once_and_the_least_used_go(tiny_model: Path, tmp_path: Path) -> None:
    tasks = served(tiny_model)
    for seed in range(3):
        tasks.add(f"t{seed}", saved(tiny_model, tmp_path / str(seed), seed))
    first = tasks.front(tasks.get("t0"))
    assert tasks.front(tasks.get("t0")) is first
    assert tasks.computed == 1
    tasks.cache_bytes = 2 * sum(t.nbytes for pair in first or () for t in pair)
    for name in ("t1", "t0", "t2"):  # t1 has waited longest
        tasks.front(tasks.get(name))
    assert tasks.computed == 3
    assert tasks.front(tasks.get("t0")) is first
    tasks.front(tasks.get("t1"))
    assert tasks.computed == 4
    removed = tasks.get("t1")
    tasks.remove("t1")
    assert tasks.front(removed) is not None, "a request that waited"
    assert removed not in tasks._kept
    tasks.cache_bytes = 0  # but the values of the present request are kept
    assert tasks.front(tasks.get("t2")) is not None


def test_what_cannot_be_served_is_one_line(tiny_model: Path, tmp_path: Path) -> None:
    tasks = served(tiny_model)
    tasks.add("t", saved(tiny_model, tmp_path / "t"))
    lora = get_peft_model(load_base(tiny_model)[0], LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False))
    lora.save_pretrained(str(tmp_path / "lora"))
    before = answer(tasks, "t")
    for name, path, message in (
        ("t", "t", '^name: "t" is served already: remove it first'),
        ("a/b", "t", "^name: expected at most 64 letters, digits, .* found 'a/b'"),
        ("base", "t", '^name: "base" is served already: choose another name$'),
        ("l", "lora", "is LORA, which changes the base model"),
        ("n", "nothing", "^adapter.path: no such folder"),
    ):
        with pytest.raises(UserError, match=message):
            tasks.add(name, str(tmp_path / path))
    with pytest.raises(UserError, match=r'^model: "tt"'):
        tasks.get("tt")
    with pytest.raises(UserError, match="the base model is always served"):
        tasks.remove("base")
    assert (tasks.names, answer(tasks, "t")) == (["base", "t"], before), "who is served goes on"


def test_a_damaged_adapter_changes_nothing(tiny_model: Path, tmp_path: Path) -> None:
    tasks = served(tiny_model)
    folder = Path(saved(tiny_model, tmp_path / "t"))
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(UserError, match="is not a safetensors file, or is damaged"):
        tasks.add("t", str(folder))
    assert tasks.names == ["base"]


def test_an_adapter_without_its_run_is_served_with_a_warning(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    served(tiny_model).add("t", saved(tiny_model, tmp_path / "t"))
    assert f"t: no run is known for {tmp_path / 't'}" in caplog.text


def test_a_base_model_that_is_no_decoder_is_one_line(tiny_t5: Path) -> None:
    base, tokenizer = load_base_model(ModelConfig(str(tiny_t5)), torch.device("cpu"))
    with pytest.raises(UserError, match="cannot be served in continuous batches: it is not a decoder"):
        Tasks(base, tokenizer)


class Scaled(LlamaForCausalLM):
    """A decoder that scales the embeddings of token ids only, as Falcon-H1."""

    def forward(self, input_ids: Any = None, inputs_embeds: Any = None, **more: Any) -> Any:
        """Compute logits."""
        if input_ids is not None:
            inputs_embeds = 2 * self.get_input_embeddings()(input_ids)
        return super().forward(inputs_embeds=inputs_embeds, **more)


class LooksAhead(LlamaForCausalLM):
    """A decoder whose logits depend on the last token."""

    def forward(self, *args: Any, **more: Any) -> Any:
        """Compute logits."""
        output = super().forward(*args, **more)
        output.logits = output.logits + output.logits[:, -1:]
        return output


def test_base_models_whose_answers_would_be_wrong_are_one_line(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = load_base(tiny_model)[1]
    with pytest.raises(UserError, match=r"^model.name_or_path: a llama model predicts each token from the later ones"):
        Tasks(LooksAhead.from_pretrained(tiny_model).eval(), tokenizer)
    tasks = Tasks(Scaled.from_pretrained(tiny_model).eval(), tokenizer)
    with pytest.raises(UserError, match=r"^model.name_or_path: a llama model reads token ids in another way than"):
        tasks.add("prompt", saved(tiny_model, tmp_path / "prompt"))
    assert tasks.names == ["base"]


def test_an_adapter_of_a_renamed_base_is_served_on_request(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(saved(tiny_model, tmp_path / "t"))
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "some/llama"}))
    with pytest.raises(UserError, match=r"was trained on some/llama, .* set serve\.any_base to true$"):
        served(tiny_model).add("t", str(folder))
    tasks = served(tiny_model, any_base=True)
    tasks.add("t", str(folder))
    assert tasks.names == ["base", "t"]
