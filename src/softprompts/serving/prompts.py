"""Tokenize the texts of requests, with the functions that encode training rows and one encoder for all requests.

An encoder reads the whole tokenizer at its creation, in a tenth of a second. After that, only its cache of words
changes, so any thread may call these functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from softprompts.data.values import Record
from softprompts.encoding.encoder import Encoder
from softprompts.encoding.row_tokens import RowTokenizer
from softprompts.encoding.tokenization import read_apart
from softprompts.errors import UserError, listed, settings_named, short
from softprompts.evaluation.interactive import record_of
from softprompts.models.loading import InputSpec
from softprompts.serving.tasks import ServedTask
from softprompts.tasks.rows import Text
from softprompts.tasks.templates import render

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

# Texts that test a tokenizer: words, digits, signs, white space, scripts, characters of several code points.
SAMPLE = (
    "The quick brown fox.",
    " jumps\nover 12 lazy dogs!",
    '{"on": [1, 2.5], "name": "Zoë"}\n\n\tif x != y_2:  # don\'t\r\n',
    "Grüße – Привет, 世界！ مرحبا e\u0301 \U0001f600\u00a0\u200b",
)
REMEMBERED = 2**14  # words: a few megabytes, and most words of usual texts
PLACE = "the request"
MOST_READ = 2**24  # characters of the choices of one text, each with the prompt before it; they take some seconds


class Prompts:
    """Tokenizes the texts of requests.

    Args:
        tokenizer: the base model's tokenizer.
        spec: limits of the base model's input. The limit of positions is checked when a request asks for an answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, spec: InputSpec) -> None:
        self.tokenizer, self.spec = tokenizer, replace(spec, room=None)
        self.encoder = Encoder(tokenizer, SAMPLE, REMEMBERED)
        self._plain = self._reader(ServedTask("base", None, None, {}))

    def raw_ids(self, text: str) -> list[int]:
        """Return the token ids of a text that is the whole prompt.

        Raises:
            UserError: the text has no tokens, or a token that the base model does not know.
        """
        return self._plain.prompt_ids(Text(PLACE, text, ""))

    def filled_ids(self, task: ServedTask, given: str | Record) -> list[int]:
        """Return the token ids of a prompt in the template of the task's run, as a chat if the run's rows were chats.

        Args:
            task: task with the template.
            given: the columns of the template, or the text of its only column.

        Raises:
            UserError: a column is missing; a text is given for a template with several columns; as `raw_ids`.
        """
        return self._reader(task).prompt_ids(Text(PLACE, _filled(task, given), ""))

    def chat_ids(self, task: ServedTask, messages: list[dict[str, str]]) -> list[int]:
        """Return the token ids of a conversation.

        A task with a known run reads one user message, in its template. Any other, such as the base model, reads all
        messages in the tokenizer's chat template.

        Args:
            task: task that answers.
            messages: messages, each with role and content.

        Raises:
            UserError: the task does not read such messages; the chat template is missing or refuses them.
        """
        if task.settings:
            if [message["role"] for message in messages] != ["user"]:
                found = ", ".join(message["role"] for message in messages)
                raise UserError(
                    f"messages: {task.name} was trained on single texts; send one user message, not {short(found)}"
                )
            return self.filled_ids(task, messages[0]["content"])
        if not self.tokenizer.chat_template:
            raise UserError(
                f"messages: the tokenizer of {self.tokenizer.name_or_path} has no chat template; send a prompt"
            )
        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template is a program from the model's folder, so any error is possible
            raise UserError(
                f"messages: the chat template refuses them: {short(' '.join(str(error).split()))}"
            ) from None
        (ids,) = self.encoder.ids([str(text)], special=False)
        self._plain.check_prompt(Text(PLACE, "", ""), ids)
        return ids

    def choice_ids(
        self, task: ServedTask, given: str | Record, choices: Sequence[str]
    ) -> tuple[list[int], tuple[tuple[int, ...], ...]]:
        """Return the token ids of a prompt and of each choice, the same as for a training row with these choices.

        Raises:
            UserError: as `filled_ids`; two choices cannot be told apart; the choices are too many.
        """
        prompt = _filled(task, given)
        if len(prompt) * len(choices) + sum(map(len, choices)) > MOST_READ:
            raise UserError(f"choices: {len(choices)} are too many after a prompt of {len(prompt):,} characters")
        with settings_named({"task.choices": "choices"}):
            return read_apart(
                self._reader(task, choices), task.end, lambda one: one.read(Text(PLACE, prompt, choices[0]))
            )

    def _reader(self, task: ServedTask, choices: Sequence[str] = ()) -> RowTokenizer:
        return RowTokenizer(task.as_task(choices), self.tokenizer, self.encoder, self.spec, ())


def _filled(task: ServedTask, given: str | Record) -> str:
    """Return a task's template, filled with the columns of a request or with the text of its only column."""
    if isinstance(given, str):
        if len(task.columns) != 1:
            raise UserError(
                f"{task.name} reads the columns {listed(task.columns)}; give them as `columns` to "
                "/v1/completions or /v1/classify"
            )
        given = record_of(task.columns[0], given)
    return render(task.template, given, PLACE)
