"""Rows as chats: they equal the output of the tokenizer's own template, without cuts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers import load_base, make_task, prompt_config, scores
from softprompts.encoding.chats import in_chat
from softprompts.encoding.documents import Document
from softprompts.encoding.tokenization import encode
from softprompts.engine.forward import Engine
from softprompts.errors import UserError
from softprompts.methods.soft_prompts.prompt_tuning import add_soft_prompt
from softprompts.models.bundled import resolve
from softprompts.models.loading import InputSpec

import pytest
import torch
from transformers import AutoTokenizer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

# Every message ends in the token <end>, which may or may not be the tokenizer's end of the sequence.
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]\n{{ m['content'] }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + TEMPLATE
SYSTEM = "you rate films"


def encode_one(tokenizer: PreTrainedTokenizerBase, prompt: str, target: str, **settings: Any) -> Document:
    return encode(make_task([(prompt, target)], **settings), tokenizer).train[0].document


def chat_tokenizer(folder: Path, template: str | None = TEMPLATE) -> PreTrainedTokenizerBase:
    """Return the tiny tokenizer with a chat template whose messages end in a special token that is not the text's."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<end>"]})
    tokenizer.chat_template = template
    return tokenizer


def conversation(prompt: str, answer: str | None = None, system: str | None = None) -> list[dict[str, str]]:
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    return messages if answer is None else [*messages, {"role": "assistant", "content": answer}]


def templated(tokenizer: Any, messages: list[dict[str, str]], generation: bool) -> list[int]:
    return tokenizer.apply_chat_template(messages, add_generation_prompt=generation, return_dict=False)


def assert_chat(tokenizer: PreTrainedTokenizerBase, system: str | None, end: str) -> None:
    """Compare a chat's ids with the output of the tokenizer's own template, for open answers and for choices."""
    prompt, answer = "the film was good, and the plot?", "very fine"
    document = encode_one(tokenizer, prompt, f" {answer}", chat=True, system=system)
    asked = templated(tokenizer, conversation(prompt, system=system), True)
    whole = templated(tokenizer, conversation(prompt, answer, system), False)
    assert list(document.prompt_ids) == asked
    ids = [*document.prompt_ids, *document.target_ids]
    assert ids == whole[: len(ids)], "nothing behind the answer's end but what the template adds to every message"
    assert tokenizer.decode(document.target_ids) == answer + end
    assert tokenizer.decode(whole[len(ids) :]).strip() == ""

    task = make_task([(prompt, " good")], choices=(" good", " very bad"), chat=True, system=system)
    first, second = encode(task, tokenizer).train[0].choices
    assert first.prompt_ids == second.prompt_ids == document.prompt_ids
    assert [tokenizer.decode(d.target_ids) for d in (first, second)] == ["good", "very bad"], "no end behind a choice"


@pytest.mark.parametrize("system", [None, SYSTEM])
def test_a_chat_is_what_the_template_makes_of_the_conversation(tiny_model: Path, system: str | None) -> None:
    tokenizer = chat_tokenizer(tiny_model)
    assert tokenizer.eos_token != "<end>", "the end of an answer is the template's, not the tokenizer's"
    assert_chat(tokenizer, system, "<end>")


@pytest.mark.bundled
@pytest.mark.parametrize("system", [None, SYSTEM])
def test_a_chat_with_the_bundled_model(system: str | None) -> None:
    tokenizer = AutoTokenizer.from_pretrained(resolve("bundled:smollm2-135m-instruct"))
    assert_chat(tokenizer, system, "<|im_end|>")


def test_where_a_template_puts_no_special_token_an_answer_ends_in_the_end_of_sequence(tiny_model: Path) -> None:
    tokenizer = chat_tokenizer(tiny_model, TEMPLATE.replace("<end>", "!"))
    target_ids = encode_one(tokenizer, "the film", "good", chat=True).target_ids
    assert tokenizer.decode(target_ids) == f"good{tokenizer.eos_token}"


@pytest.mark.parametrize(
    ("template", "system", "message"),
    [
        (None, None, r"^task\.chat: the tokenizer of \S+ has no chat template$"),
        (NO_SYSTEM, SYSTEM, r"^task\.system: the chat template of \S+ refuses it: no system here$"),
    ],
)
def test_chats_that_cannot_be(tiny_model: Path, template: str | None, system: str | None, message: str) -> None:
    tokenizer = chat_tokenizer(tiny_model, template)
    with pytest.raises(UserError, match=message):
        encode_one(tokenizer, "the film", " good", chat=True, system=system)


FAILS = r"^task\.chat: the chat template of \S+ fails: "
HIDES = r"^task\.chat: the chat template of \S+ changes the user's message: 'the film' is not in "


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ 1 + 'a' }}", FAILS + "unsupported operand"),
        ("{{ 1/0 }}", FAILS + "division by zero$"),
        ("{% for %}", FAILS + "Expected an expression"),
        ("{% for i in range(10**7) %}{% endfor %}", FAILS + "Range too big"),
        ("{% include 'x' %}", FAILS),
        ({"tools": TEMPLATE}, FAILS + "This model has multiple chat templates with no default"),
        (5, FAILS),
        ("hello", HIDES + "'hello'$"),
        ("{{ messages[0]['content'][:3] }}", HIDES + "'the'$"),
        ("{{ messages[0]['content'] | upper }}", HIDES + "'THE FILM'$"),
    ],
)
def test_a_template_that_fails_or_hides_the_message(tiny_model: Path, template: Any, message: str) -> None:
    tokenizer = chat_tokenizer(tiny_model, template)
    with pytest.raises(UserError, match=message) as caught:
        in_chat(make_task([("the film", "good")], chat=True), tokenizer, "the film")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shown", "message"),
    [
        (("user", "assistant"), "task.system: the chat template of .* changes the system message: 'you"),
        (
            ("system", "user"),
            "task.chat: the chat template of .* changes the assistant's message: 'good'",
        ),
    ],
)
def test_a_template_that_hides_the_system_message_or_the_answer(
    tiny_model: Path, shown: tuple[str, ...], message: str
) -> None:
    template = (
        f"{{% for m in messages %}}{{% if m['role'] in {shown} %}}{{{{ m['content'] }}}}{{% endif %}}{{% endfor %}}"
    )
    task = make_task([("the film", "good")], chat=True, system=SYSTEM)
    with pytest.raises(UserError, match=message):
        in_chat(task, chat_tokenizer(tiny_model, template), "the film", "good")


def test_a_template_may_strip_a_message(tiny_model: Path) -> None:
    tokenizer = chat_tokenizer(tiny_model, "{% for m in messages %}[{{ m['content'] | trim }}]{% endfor %}")
    assert in_chat(make_task([("x", "y")], chat=True), tokenizer, " a\nfilm\n", " good ") == "[a\nfilm][good]"


def test_a_template_that_refuses_system_messages_is_fine_without_one(tiny_model: Path) -> None:
    assert_chat(chat_tokenizer(tiny_model, NO_SYSTEM), None, "<end>")


def test_an_open_chat_ends_where_the_model_answers(tiny_model: Path) -> None:
    tokenizer = chat_tokenizer(tiny_model)
    task = make_task([("the film", "good")], chat=True, system=SYSTEM)
    assert in_chat(task, tokenizer, "the film") == f"<s>[system]\n{SYSTEM}<end>\n[user]\nthe film<end>\n[assistant]\n"
    assert in_chat(task, tokenizer, "the film", "good").endswith("[assistant]\ngood<end>\n")


@pytest.mark.parametrize("chat", [False, True])
def test_virtual_tokens_stand_in_front_of_everything(tiny_model: Path, chat: bool) -> None:
    base, _ = load_base(tiny_model)
    tokenizer = chat_tokenizer(tiny_model)
    base.resize_token_embeddings(len(tokenizer))
    model = add_soft_prompt(base, tokenizer, prompt_config(tiny_model), seed=0)
    task = make_task([("the film was", " good")], choices=(" good", " bad"), chat=chat)
    document = encode(task, tokenizer).train[0].document
    assert document.prompt_ids[0] == tokenizer.bos_token_id
    ids = torch.tensor([document.input_ids])
    by_hand = torch.cat([next(model.prompt_encoder.parameters())[None], base.get_input_embeddings()(ids)], dim=1)
    expected = base(inputs_embeds=by_hand).logits[0, -len(document.target_ids) :]
    torch.testing.assert_close(model(input_ids=ids).logits[0, -len(document.target_ids) :], expected)
    engine = Engine(model, tokenizer)
    for packed in (False, True):
        torch.testing.assert_close(scores(engine, [document], packed).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "message", ["the film was a very good film and the cast was fine", "été à la plage, très bien"]
)
@pytest.mark.parametrize("less", range(1, 7))
def test_cut_prompt_leaves_a_template_whole_and_cuts_the_message(tiny_model: Path, message: str, less: int) -> None:
    tokenizer = chat_tokenizer(tiny_model)
    chat: dict[str, Any] = {"chat": True, "system": SYSTEM}
    whole = encode_one(tokenizer, message, " good plot", **chat)
    limit = len(whole.prompt_ids) + len(whole.target_ids) - less
    cut = encode_one(tokenizer, message, " good plot", max_length=limit, long_rows="cut_prompt", **chat)
    assert cut.target_ids == whole.target_ids
    assert len(cut.prompt_ids) + len(cut.target_ids) <= limit
    before, behind_it = in_chat(make_task([], **chat), tokenizer, "|").split("|")
    text = tokenizer.decode(cut.prompt_ids)
    assert text.startswith(before)
    assert text.endswith(behind_it)
    kept = text[len(before) : -len(behind_it)]
    assert kept
    assert message.endswith(kept), "only its beginning is gone, and no character is broken in two"


def test_a_chat_whose_template_alone_is_too_long_is_refused(tiny_model: Path) -> None:
    tokenizer = chat_tokenizer(tiny_model)
    with pytest.raises(UserError, match=r"^row 1: \d+ tokens .* do not fit into 10; raise task.max_length, shorten"):
        encode_one(tokenizer, "the film", " good", chat=True, max_length=10, long_rows="cut_prompt")


@pytest.mark.parametrize("chat", [False, True])
def test_an_encoder_decoder_writes_an_answer_that_stands_alone(tiny_model: Path, chat: bool) -> None:
    tokenizer = chat_tokenizer(tiny_model)
    task = make_task([("the film was", " good plot")], chat=chat)
    document = encode(task, tokenizer, InputSpec("encoder-decoder")).train[0].document
    assert tokenizer.decode(document.target_ids) == "good plot" + ("<end>" if chat else "</s>")
    read = tokenizer.apply_chat_template(conversation("the film was"), tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(document.prompt_ids) == (read if chat else "<s>the film was")
