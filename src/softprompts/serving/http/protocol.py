"""Requests in the format of OpenAI's clients, with a few fields of our own, checked before any work."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Text = Annotated[str, Field(max_length=1_000_000)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
# The first error is enough: in a list of a wrong type each item would be one.
Ids = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
Columns = dict[Annotated[str, Field(max_length=200)], Any]
MOST = 64  # answers to one request
Stop = Annotated[str, Field(max_length=1000)]  # searched for after every token


class Strict(BaseModel):
    """A request, or a part of one. An unknown field is refused; null means that a field is not given."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_null(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data


class StreamOptions(Strict):
    """Whether the last event of a stream counts tokens."""

    include_usage: bool = False


class Sampled(Strict):
    """The common fields of completions and chats. Answers are greedy by default, as in evaluation.

    `return_token_ids` is vLLM's field: the reply then has the token ids of prompt and answer in addition to the texts.
    """

    model: Annotated[str, Field(max_length=200)]
    max_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    n: Annotated[int, Field(ge=1, le=MOST)] = 1
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] = 0.0
    user: Annotated[str, Field(max_length=1000)] | None = None
    metadata: dict[str, Any] | None = None
    return_token_ids: bool = False

    @model_validator(mode="after")
    def _streamed(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: set stream to true")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in given if text)


class CompletionRequest(Sampled):
    """`prompt` is the whole text after the soft prompt; `columns`, our own field, fills the template of the task."""

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=MOST, fail_fast=True)]
        | Ids
        | Annotated[list[Ids], Field(min_length=1, max_length=MOST, fail_fast=True)]
        | None
    ) = None
    columns: Columns | Annotated[list[Columns], Field(min_length=1, max_length=MOST)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: Literal[False] = False
    best_of: Literal[1] = 1

    @model_validator(mode="after")
    def _one_way(self) -> CompletionRequest:
        if (self.prompt is None) == (self.columns is None):
            raise ValueError("give either prompt or columns")
        return self


class TextPart(Strict):
    """A part of a message's content."""

    type: Literal["text"]
    text: Text


class Message(Strict):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Text | list[TextPart]
    name: Annotated[str, Field(max_length=200)] | None = None

    def as_read(self) -> dict[str, str]:
        """Return role and content in the form for a chat template."""
        parts = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": self.role, "content": parts}


class ResponseFormat(Strict):
    """Only plain text: a task's own training decides its form."""

    type: Literal["text"] = "text"


class ChatRequest(Sampled):
    """A task with a known run reads one user message in its template; any other task reads all messages."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0
    response_format: ResponseFormat | None = None

    @model_validator(mode="after")
    def _logprobs_asked(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs: set logprobs to true")
        return self


class ClassifyRequest(Strict):
    """Texts, or columns of the template, whose choices are scored by likelihood."""

    model: Annotated[str, Field(max_length=200)]
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=MOST)] | None = None
    columns: Columns | Annotated[list[Columns], Field(min_length=1, max_length=MOST)] | None = None
    choices: Annotated[list[Text], Field(min_length=2, max_length=1000)] | None = None
    user: Annotated[str, Field(max_length=1000)] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> ClassifyRequest:
        if (self.input is None) == (self.columns is None):
            raise ValueError("give either input or columns")
        return self


class AdapterRequest(Strict):
    """An adapter to serve from now on."""

    name: Annotated[str, Field(max_length=200)]
    path: Annotated[str, Field(min_length=1, max_length=4000)]


class OutcomeRequest(Strict):
    """The outcome of a split's answer: a number, for example 1 for solved and 0 for not solved."""

    id: Annotated[str, Field(max_length=100)]
    outcome: Annotated[float, Field(allow_inf_nan=False)]


FIELDS = sorted({field for kind in (CompletionRequest, ChatRequest, ClassifyRequest) for field in kind.model_fields})
