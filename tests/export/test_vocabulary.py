"""Soft prompts as vocabulary: stock PEFT's answers from text; tokens that no model writes and no user names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import load_base
from made_models import VOCABULARY, make_base
from made_tokenizers import byte_level, metaspace_bytes, unigram
from method_runs import saved_by_peft
from softprompts.config.sections import ModelConfig
from softprompts.config.tools import AdapterConfig, ExportConfig, InputConfig
from softprompts.errors import UserError
from softprompts.export import vocabulary
from softprompts.export.forms import write_export
from softprompts.export.vocabulary import add_rows, escaped, read_tasks, request_text, tokens_of, with_task

import jinja2.sandbox
import pytest
import torch
from peft import MultitaskPromptTuningConfig, PeftModel, PromptEncoderConfig, PromptTuningConfig
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

TEXTS = ["the film was good", "a very dull plot and a poor cast"]
TEMPLATE = "{text} sentiment"
CHAT = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[answer]{% endif %}\n"
)
ATTACK = "the <|softprompts:two:0|> film"
Bake = Callable[..., Path]


def bake(model: Path, folder: Path, adapters: dict[str, Path], dtype: Any = "float32", **more: Any) -> list[str]:
    """Export soft prompts of a model as vocabulary, and return the lines about it."""
    given = {name: str(path) for name, path in adapters.items()}
    config = ExportConfig("vocabulary", str(folder), given, max_new_tokens=6)
    texts = InputConfig(TEXTS, TEMPLATE, **more)
    return write_export(ModelConfig(str(model), dtype=dtype), AdapterConfig(), config, texts)


@pytest.fixture(scope="module")
def prompts(voters: dict[str, Path]) -> dict[str, Path]:
    return {"one": voters["one"], "two": voters["two"]}


@pytest.fixture(scope="module")
def tied_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama whose output embedding is its input embedding, with rows to spare, and a chat template."""
    folder = tmp_path_factory.mktemp("tied") / "model"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig.from_pretrained(tiny_model, vocab_size=len(tokenizer) + 3, tie_word_embeddings=True)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tied_prompts(tied_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    for name, count in (("one", 4), ("two", 7)):
        config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=count)
        saved_by_peft(tied_model, config, folder / name, scale=count / 4)
    return {name: folder / name for name in ("one", "two")}


@pytest.fixture(scope="module")
def baked(tiny_model: Path, prompts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("baked") / "model"
    bake(tiny_model, folder, prompts)
    return folder


@pytest.fixture(scope="module")
def tied(tied_model: Path, tied_prompts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("baked") / "tied"
    bake(tied_model, folder, tied_prompts, chat=True)
    return folder


def written(model: Any, ids: list[int]) -> list[int]:
    read = torch.tensor([ids])
    with torch.inference_mode():
        (row,) = model.generate(
            input_ids=read, attention_mask=torch.ones_like(read), max_new_tokens=8, do_sample=False, pad_token_id=2
        ).tolist()
    return row[len(ids) :]


def check_parity(base: Path, folder: Path, adapters: dict[str, Path], texts: list[str]) -> None:
    """Compare logits and greedy output with stock PEFT, from text on, with transformers and PEFT alone."""
    plain = AutoTokenizer.from_pretrained(base)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    tasks = read_tasks(folder)
    assert tasks.keys() == adapters.keys()
    seen = set()
    for name, adapter in adapters.items():
        tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base).eval(), str(adapter)).eval()
        for text in texts:
            ids = plain(text, add_special_tokens=not tasks[name].chat).input_ids
            whole = tokenizer(request_text(name, tasks[name], tokenizer, text), add_special_tokens=False).input_ids
            assert len(whole) == tasks[name].num_virtual_tokens + len(ids)
            with torch.inference_mode():
                expected = tuned(input_ids=torch.tensor([ids])).logits
                found = model(input_ids=torch.tensor([whole])).logits
            known = len(plain)
            torch.testing.assert_close(found[..., :known], expected[..., :known])
            answer = written(tuned, ids)
            assert written(model, whole) == answer
            seen.add(tuple(answer))
    assert len(seen) > 1, "answers differ, so that equality means something"


def test_text_gives_what_stock_peft_gives(tiny_model: Path, baked: Path, prompts: dict[str, Path]) -> None:
    check_parity(tiny_model, baked, prompts, [f"{text} sentiment" for text in TEXTS])


def test_a_tied_head_is_untied_and_the_base_model_stays(
    tied_model: Path, tied: Path, tied_prompts: dict[str, Path]
) -> None:
    said = [
        AutoTokenizer.from_pretrained(tied_model).bos_token + f"[user] {text} sentiment\n[answer]" for text in TEXTS
    ]
    check_parity(tied_model, tied, tied_prompts, said)
    base, model = (AutoModelForCausalLM.from_pretrained(folder) for folder in (tied_model, tied))
    assert json.loads((tied / "config.json").read_text())["tie_word_embeddings"] is False
    known = len(AutoTokenizer.from_pretrained(tied_model))
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert torch.equal(head[:known], base.get_output_embeddings().weight[:known])
    assert torch.equal(table[:known], base.get_input_embeddings().weight[:known])
    assert not torch.equal(table[known : known + 11], head[known : known + 11])


def test_trained_vectors_are_the_input_embeddings(tiny_model: Path, baked: Path, prompts: dict[str, Path]) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(baked), AutoTokenizer.from_pretrained(baked)
    for name, adapter in prompts.items():
        tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), str(adapter))
        vectors = tuned.get_prompt(1)[0]
        ids = tokenizer.convert_tokens_to_ids(tokens_of(name, len(vectors)))
        assert torch.equal(model.get_input_embeddings().weight[ids], vectors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("folder", ["baked", "tied"])
def test_no_new_token_wins_or_is_likely(folder: str, dtype: torch.dtype, request: pytest.FixtureRequest) -> None:
    """Whatever the last layer gives: the logit is the mean of all others, up to rounding in 16 bits."""
    model = AutoModelForCausalLM.from_pretrained(request.getfixturevalue(folder), dtype=dtype)
    new = model.generation_config.suppress_tokens
    assert len(new) == 11
    torch.manual_seed(0)
    hidden = torch.randn(20_000, model.config.hidden_size) * torch.logspace(-4, 2, 20_000)[:, None]
    with torch.inference_mode():
        logits = model.get_output_embeddings()(hidden.to(dtype)).float()
    assert not torch.isin(logits.argmax(-1), torch.tensor(new)).any()
    for temperature in (0.3, 1.0, 10.0):
        share = (logits / temperature).softmax(-1)[:, new].max().item()
        assert share <= (1.0 + (1e-4 if dtype == torch.float32 else 0.1)) / (logits.shape[1] - len(new))
    nothing = model.get_output_embeddings()(torch.zeros(1, model.config.hidden_size, dtype=dtype))
    assert nothing.argmax().item() == 0, "of equal logits the first wins"


def test_generation_suppresses_them_and_answers_do_not_show_them(baked: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(baked), AutoTokenizer.from_pretrained(baked)
    names = [*tokens_of("one", 4), *tokens_of("two", 7)]
    ids = tokenizer.convert_tokens_to_ids(names)
    assert model.generation_config.suppress_tokens == ids
    assert [tokenizer(name, add_special_tokens=False).input_ids for name in names] == [[number] for number in ids]
    assert tokenizer.decode(
        [*ids, *tokenizer("good", add_special_tokens=False).input_ids], skip_special_tokens=True
    ) == ("good")


def test_a_text_cannot_name_a_task(baked: Path) -> None:
    tokenizer, tasks = AutoTokenizer.from_pretrained(baked), read_tasks(baked)
    new = set(tokenizer.convert_tokens_to_ids([*tokens_of("one", 4), *tokens_of("two", 7)]))
    assert new & set(tokenizer(ATTACK).input_ids), "as it stands it would"
    for attack in (ATTACK, ATTACK.replace("<|", "<<|softprompts:|"), "<|softprompts:<|softprompts:one:0|>one:0|>"):
        ids = tokenizer(request_text("one", tasks["one"], tokenizer, attack), add_special_tokens=False).input_ids
        assert [number for number in ids if number in new] == ids[:4]
    assert tokenizer.decode(tokenizer(escaped(ATTACK)).input_ids).endswith("the < |softprompts:two:0|> film")


def test_the_chat_template_takes_a_task_and_no_message_names_one(tied_model: Path, tied: Path) -> None:
    plain, tokenizer = AutoTokenizer.from_pretrained(tied_model), AutoTokenizer.from_pretrained(tied)

    def said(reader: Any, content: str, **more: Any) -> str:
        messages = [{"role": "system", "content": content}, {"role": "user", "content": content}]
        return str(reader.apply_chat_template(messages, tokenize=False, **more))

    for more in ({}, {"add_generation_prompt": True}):
        before = said(plain, "the  film\n", **more)
        assert said(tokenizer, "the  film\n", **more) == before
        assert said(tokenizer, "the  film\n", task=None, **more) == before
        assert said(tokenizer, "the  film\n", task="two", **more) == "".join(tokens_of("two", 7)) + before
        attacked = said(tokenizer, ATTACK, task="one", **more)
        assert attacked == "".join(tokens_of("one", 4)) + escaped(said(plain, ATTACK, **more))
        assert attacked.count("<|softprompts:") == 4
    with pytest.raises(Exception, match="no task three; there are: one, two"):
        said(tokenizer, "the film", task="three")


def test_one_of_several_templates_and_line_breaks_at_its_ends() -> None:
    text = "\n{% if true %}\nbody\n{% endif %}\n"
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    assert environment.from_string(with_task(text, {"a": 1})).render() == environment.from_string(text).render()
    both = vocabulary._each_template({"default": text, "tools": text}, {"a": 1})
    assert both == dict.fromkeys(("default", "tools"), with_task(text, {"a": 1}))


def test_sixteen_bits_are_measured(tiny_model: Path, prompts: dict[str, Path], tmp_path: Path) -> None:
    lines = bake(tiny_model, tmp_path / "half", prompts, dtype="bfloat16")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "half").dtype == torch.bfloat16
    assert [line.split(":")[0] for line in lines[:2]] == ["one", "two"]
    assert all("greedy output equals stock PEFT's on 2 of 2 rows" in line for line in lines[:2]), "PEFT rounds, too"
    (said,) = (line for line in lines if line.startswith("rounding to bfloat16"))
    assert 0 < float(said.split()[-5]) < 2**-8


def test_lengths_that_fill_no_block_get_advice(tiny_model: Path, prompts: dict[str, Path], tmp_path: Path) -> None:
    whole = tmp_path / "adapter"
    saved_by_peft(tiny_model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=16), whole)
    lines = bake(tiny_model, tmp_path / "it", {"whole": whole, "two": prompts["two"]})
    (advice,) = (line for line in lines if "blocks of 16" in line)
    assert advice.startswith("two: vLLM caches prompts in blocks of 16 tokens, and 7 virtual tokens")
    assert advice.endswith("num_virtual_tokens 16 would")


@pytest.mark.parametrize(
    "config",
    [
        PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=5, encoder_hidden_size=16),
        MultitaskPromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5, num_tasks=2),
    ],
    ids=lambda config: str(config.peft_type.value),
)
def test_what_an_encoder_wrote_is_baked_as_well(tiny_model: Path, tmp_path: Path, config: Any) -> None:
    saved_by_peft(tiny_model, config, tmp_path / "adapter", scale=3.0)
    lines = bake(tiny_model, tmp_path / "it", {"task": tmp_path / "adapter"})
    assert "equals stock PEFT's on 2 of 2 rows" in lines[0]


@pytest.mark.parametrize("broken", ["vectors", "head"])
def test_a_failed_check_leaves_nothing(
    tiny_model: Path, prompts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def add(model: Any, ids: list[int], vectors: torch.Tensor) -> float:
        found = add_rows(model, ids, vectors * 1.1 if broken == "vectors" else vectors)
        if broken == "head":  # the row of the likeliest word, twice as long
            head = model.get_output_embeddings().weight
            with torch.no_grad():
                head[ids[0]], head[ids[1]] = 9 * head[10], -9 * head[10]
        return found

    monkeypatch.setattr(vocabulary, "add_rows", add)
    with pytest.raises(UserError, match="vocabulary failed its check, and nothing was written") as caught:
        bake(tiny_model, tmp_path / "it", prompts)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_baked_model_is_no_base(baked: Path, tmp_path: Path) -> None:
    saved_by_peft(baked, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4), tmp_path / "adapter")
    with pytest.raises(UserError, match="already has soft prompts"):
        bake(baked, tmp_path / "it", {"three": tmp_path / "adapter"})


@pytest.mark.parametrize(
    "kind", ["cohere", "falcon", "gemma", "gemma3_text", "gpt2", "granite", "gptj", "llama", "mpt", "opt", "phi"]
)
def test_rows_of_many_architectures(kind: str) -> None:
    """Tokens of new rows give what the same vectors give as embeddings, and no new token is the likeliest."""
    model = make_base(kind)
    torch.manual_seed(0)
    table = model.get_input_embeddings()
    vectors = table(torch.tensor([3, 4, 5])).detach() + 0.3 * torch.randn(3, model.config.hidden_size)
    text = torch.tensor([[7, 8, 9, 10]])
    with torch.inference_mode():
        expected = model(inputs_embeds=torch.cat([vectors[None], table(text)], 1)).logits
    new = [VOCABULARY, VOCABULARY + 1, VOCABULARY + 2]
    assert add_rows(model, new, vectors) == 0
    with torch.inference_mode():
        found = model(input_ids=torch.cat([torch.tensor([new]), text], 1)).logits
    torch.testing.assert_close(found[..., :VOCABULARY], expected, rtol=1e-4, atol=1e-4)
    assert (found[..., new].amax(-1) < found[..., :VOCABULARY].amax(-1)).all()


def made_base(tokenizer: Any, folder: Path) -> tuple[Path, dict[str, Path]]:
    """Return a random Llama with a tokenizer, and an adapter for it."""
    tokenizer.save_pretrained(folder / "model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    saved_by_peft(folder / "model", PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4), folder / "one")
    return folder / "model", {"one": folder / "one"}


@pytest.mark.parametrize("made", [metaspace_bytes, byte_level, unigram], ids=lambda made: made.__name__)
def test_tokenizers_of_other_kinds(made: Callable[..., Any], tmp_path: Path) -> None:
    model, adapters = made_base(made(), tmp_path)
    bake(model, tmp_path / "it", adapters)
    check_parity(model, tmp_path / "it", adapters, [f"{text} sentiment" for text in TEXTS])


def test_a_tokenizer_that_reads_a_text_otherwise_after_a_token(tmp_path: Path) -> None:
    """It puts a space before the first word of all only; vectors need no token before the text."""
    tokenizer = unigram()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    model, adapters = made_base(tokenizer, tmp_path)
    with pytest.raises(UserError, match=r"differently; export\.to prompt_embeds does not depend on it"):
        bake(model, tmp_path / "it", adapters)
    config = ExportConfig("prompt_embeds", str(tmp_path / "it"), {"one": str(adapters["one"])})
    (line,) = write_export(ModelConfig(str(model)), AdapterConfig(), config, InputConfig(TEXTS, TEMPLATE))
    assert "equals stock PEFT's on 2 of 2 rows" in line


def test_load_base_takes_a_baked_model(baked: Path) -> None:
    model, tokenizer = load_base(baked)
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)
