"""Soft prompts for vLLM's prompt embeddings: whole prompts as tensors, the request, and stock PEFT's answers."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

from softprompts.config.sections import ModelConfig
from softprompts.config.tools import AdapterConfig, ExportConfig, InputConfig
from softprompts.errors import UserError
from softprompts.export import prompt_embeds
from softprompts.export.forms import write_export
from softprompts.export.prompt_embeds import prompt_tensor, read_soft_prompt, request_body

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXTS = ["the film was good", "a very dull plot and a poor cast"]


def export(model: Path, folder: Path, adapters: dict[str, Path]) -> list[str]:
    config = ExportConfig("prompt_embeds", str(folder), {n: str(p) for n, p in adapters.items()}, max_new_tokens=6)
    return write_export(ModelConfig(str(model)), AdapterConfig(), config, InputConfig(TEXTS, "{text} sentiment"))


@pytest.fixture(scope="module")
def exported(tiny_model: Path, voters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embeds") / "it"
    lines = export(tiny_model, folder, {"one": voters["one"], "two": voters["two"]})
    assert [line.partition(";")[0] for line in lines] == [
        f"{name}: greedy output equals stock PEFT's on 2 of 2 rows" for name in ("one", "two")
    ]
    return folder


def test_a_request_holds_what_stock_peft_reads(exported: Path, tiny_model: Path, voters: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    base = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    answers = set()
    for name in ("one", "two"):
        tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), str(voters[name])).eval()
        soft_prompt = read_soft_prompt(exported, name)
        assert torch.equal(soft_prompt.vectors, tuned.get_prompt(1)[0])
        for text in TEXTS:
            ids = soft_prompt.reading.ids_of(tokenizer, soft_prompt.reading.text_of(tokenizer, {"text": text}))
            assert ids == tokenizer(f"{text} sentiment").input_ids, "the begin-of-sequence token included"
            body = request_body("it", prompt_tensor(soft_prompt, ids, base.get_input_embeddings()), max_tokens=8)
            assert json.loads(json.dumps(body)) == body
            assert (body["model"], body["prompt"], body["max_tokens"]) == ("it", None, 8)
            # As vLLM reads it.
            sent = torch.load(io.BytesIO(base64.b64decode(body["prompt_embeds"], validate=True)), weights_only=True)
            assert sent.shape == (len(soft_prompt.vectors) + len(ids), base.config.hidden_size)
            given = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 2}
            with torch.inference_mode():
                found = base.generate(inputs_embeds=sent[None], attention_mask=torch.ones(1, len(sent)), **given)[0]
                read = torch.tensor([ids])
                expected = tuned.generate(input_ids=read, attention_mask=torch.ones_like(read), **given)[0, len(ids) :]
            assert found.tolist() == expected.tolist()
            answers.add(tuple(found.tolist()))
    assert len(answers) > 1


def test_the_tensor_has_the_type_of_the_base_model(exported: Path, tiny_model: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    soft_prompt = read_soft_prompt(exported, "one")
    assert soft_prompt.vectors.dtype == torch.float32
    assert prompt_tensor(soft_prompt, [5, 6], base.get_input_embeddings()).dtype == torch.bfloat16


def test_a_request_for_a_chat(exported: Path, tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}"
    file = exported / "one.json"
    record = json.loads(file.read_text())
    changed = record["task"]["one"] | {"chat": True, "system": "Be brief."}
    reading = prompt_embeds.reading_from("one", {"one": changed}, file)
    assert reading.text_of(tokenizer, {"text": "the film"}) == "[system] Be brief.[user] the film sentiment"
    with pytest.raises(UserError, match='request: no column "text"; columns are: words'):
        reading.text_of(tokenizer, {"words": "the film"})


@pytest.mark.parametrize("broken", ["no such task", "a pickle", "another length", "no record"])
def test_a_damaged_export_is_one_line(tmp_path: Path, exported: Path, broken: str) -> None:
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    if broken == "a pickle":
        torch.save({"prompt_embeds": torch.zeros(4, 32)}, tmp_path / "one.safetensors")
    if broken == "another length":
        (tmp_path / "one.safetensors").write_bytes((exported / "two.safetensors").read_bytes())
    if broken == "no record":
        (tmp_path / "one.json").write_text("[]")
    with pytest.raises(UserError) as caught:
        read_soft_prompt(tmp_path, "three" if broken == "no such task" else "one")
    assert "\n" not in str(caught.value)


def test_a_failed_check_leaves_nothing(
    tiny_model: Path, voters: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = prompt_embeds.read_soft_prompt

    def other(folder: Path, task: str) -> prompt_embeds.SoftPrompt:
        found = read(folder, task)
        return prompt_embeds.SoftPrompt(found.vectors.flip(0), found.reading)

    monkeypatch.setattr(prompt_embeds, "read_soft_prompt", other)
    with pytest.raises(UserError, match="prompt_embeds failed its check, and nothing was written"):
        export(tiny_model, tmp_path / "it", {"one": voters["one"]})
    assert list(tmp_path.iterdir()) == []


def test_nothing_here_reads_a_pickle() -> None:
    for file in Path(prompt_embeds.__file__).parent.glob("*.py"):
        assert "torch.load" not in file.read_text(encoding="utf-8")
        assert "import pickle" not in file.read_text(encoding="utf-8")
