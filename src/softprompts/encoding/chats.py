"""Put prompts into the tokenizer's chat template, and check that the result contains them."""

from __future__ import annotations

from softprompts.errors import UserError, short
from softprompts.tasks.task import Task

from transformers.tokenization_utils_base import PreTrainedTokenizerBase


def in_chat(task: Task, tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str | None = None) -> str:
    """Return a prompt in the chat template, up to the beginning of the answer, or with the answer.

    Raises:
        UserError: the tokenizer has no chat template; the template fails, refuses the system message, or changes
            prompt, answer or system message in more than surrounding white space.
    """
    name, system = tokenizer.name_or_path, task.config.system
    if not tokenizer.chat_template:
        raise UserError(f"task.chat: the tokenizer of {name} has no chat template")
    said = [("system", system)] if system else []
    said += [("user", prompt)] if answer is None else [("user", prompt), ("assistant", answer)]
    messages = [{"role": role, "content": content} for role, content in said]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer is None)
    except Exception as error:  # a template is a program, and may fail anywhere
        what = (
            "task.system: the chat template of {} refuses it" if system else "task.chat: the chat template of {} fails"
        )
        why = short(" ".join(str(error).split()), 300) or type(error).__name__
        raise UserError(f"{what.format(name)}: {why}") from None
    assert isinstance(text, str)
    for role, content in said:
        # Otherwise rows could look alike to the model, and get the same score without a warning.
        if content.strip() not in text:
            key = "task.system" if role == "system" else "task.chat"
            message = "system message" if role == "system" else f"{role}'s message"
            raise UserError(
                f"{key}: the chat template of {name} changes the {message}: {short(repr(content))} is "
                f"not in {short(repr(text))}"
            )
    return text
