"""The answers to one HTTP request: the event loop requests them, and the decoding thread generates them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from os.path import commonprefix

from softprompts.encoding.endings import before, read_answer
from softprompts.serving.batch import Row, Sampling
from softprompts.serving.scheduler import QueueFullError, Reason, Scheduler, Ticket
from softprompts.serving.tasks import ServedTask, Tasks

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

LOG = logging.getLogger(__name__)
PARTIAL = "\N{REPLACEMENT CHARACTER}"  # a tokenizer decodes the first bytes of a character to this


@dataclass(frozen=True)
class Job:
    """One requested answer.

    ids: token ids of the prompt; most: longest answer, in tokens; stop: texts that end it; logprobs: number of
    likeliest tokens to report per position, in addition to the written one; None for no log-probabilities.
    """

    task: ServedTask
    ids: Sequence[int]
    most: int
    sampling: Sampling
    stop: tuple[str, ...] = ()
    logprobs: int | None = None

    @property
    def positions(self) -> int:
        """Positions that the request needs in a batch."""
        return self.task.virtual_tokens + len(self.ids) + self.most - 1


@dataclass(frozen=True)
class Token:
    """A written token: its text, the text's offset, its log-probability, and the likeliest tokens at its position."""

    text: str
    offset: int
    logprob: float
    likeliest: list[tuple[str, float]]


@dataclass(frozen=True)
class Piece:
    """A new part of one answer: text, tokens, and their ids. `reason` is why the answer has ended, or None.

    `tokens` is empty unless the request asks for log-probabilities.
    """

    index: int
    text: str
    tokens: list[Token]
    ids: list[int]
    reason: Reason | None = None


class Answer:
    """The text and tokens of one answer as its row grows; each is reported once."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, job: Job) -> None:
        self.tokenizer, self.job = tokenizer, job
        self.sent = 0  # characters
        self.told = 0  # tokens with their log-probabilities
        self.listed = 0  # ids of tokens

    def certain(self, text: str) -> str:
        """Return the new part of a text, without half a character or a possible beginning of a stop text."""
        return self.new(text[: len(text) - self._unsure(text)])

    def new(self, text: str) -> str:
        """Return the new part of a text."""
        piece, self.sent = text[self.sent :], max(self.sent, len(text))
        return piece

    def tokens(self, row: Row, cut: bool = False) -> list[Token]:
        """Return tokens that were not reported yet and whose text was sent; empty if the request asks for none.

        Args:
            row: the answer so far.
            cut: whether a stop text has cut the answer's text before its last token.
        """
        if self.job.logprobs is None:
            return []
        found, whole = [], self.text(row.written)
        for number in range(self.told, len(row.written)):
            # Half a character counts at the place of the whole one.
            known = [self.text(row.written[:n]) for n in (number, number + 1)]
            offset, end = (len(commonprefix([text, whole])) for text in known)  # noqa: RUF071 - characters are meant
            if offset >= self.sent if cut else end > self.sent:
                break
            likeliest = row.likeliest[number] if self.job.logprobs else []
            named = [(self.text([token]), logprob) for token, logprob in likeliest]
            found.append(Token(self.text([row.written[number]]), offset, row.logprobs[number], named))
        self.told += len(found)
        return found

    def ids(self, row: Row) -> list[int]:
        """Return the ids of tokens that were not listed yet."""
        ids, self.listed = row.written[self.listed :], len(row.written)
        return ids

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of token ids."""
        return read_answer(self.tokenizer, ids, ())

    def _unsure(self, text: str) -> int:
        known = text.rstrip(PARTIAL)
        begun = 0  # characters of a stop text
        for stop in self.job.stop:
            longer = range(min(len(stop) - 1, len(known)), begun, -1)
            begun = next((length for length in longer if known.endswith(stop[:length])), begun)
        return len(text) - len(known) + begun


class Generation:
    """The answers to one HTTP request, each by its index.

    Args:
        tasks: the tasks, with the keys and values of soft prompts.
        scheduler: scheduler that decodes.
        jobs: the requested answers.
        seconds: time limit, after which all answers end.
        stream: whether `pieces` yields after each token; otherwise it yields when an answer has ended.
    """

    def __init__(
        self, tasks: Tasks, scheduler: Scheduler, jobs: Sequence[Job], *, seconds: float, stream: bool
    ) -> None:
        self.jobs = jobs
        self.first: float | None = None  # `time.monotonic()` of the first token
        self.written = 0  # tokens
        self._scheduler, self._stream = scheduler, stream
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Piece] = asyncio.Queue()
        deadline = time.monotonic() + seconds
        self._tickets = [self._ticket(tasks, number, job, deadline) for number, job in enumerate(jobs)]

    def start(self) -> None:
        """Put either all answers into the queue, or none.

        Raises:
            QueueFullError: the queue has too little room for all.
            ValueError: an answer needs more positions than the batch has.
        """
        for number, ticket in enumerate(self._tickets):
            try:
                self._scheduler.submit(ticket)
            except (QueueFullError, ValueError):
                for submitted in self._tickets[:number]:
                    self._scheduler.cancel(submitted)
                raise

    def cancel(self) -> None:
        """Cancel all answers that have not ended."""
        for ticket in self._tickets:
            self._scheduler.cancel(ticket)

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yield new parts of the answers until all have ended."""
        left = len(self.jobs)
        while left:
            piece = await self._queue.get()
            left -= piece.reason is not None
            yield piece

    def _ticket(self, tasks: Tasks, index: int, job: Job, deadline: float) -> Ticket:
        answer = Answer(tasks.tokenizer, job)

        def heard(row: Row) -> bool:
            self.first = self.first or time.monotonic()
            if not self._stream and not job.stop:
                return False
            text = answer.text(row.written)
            stopped = before(text, job.stop) != text
            if self._stream and not stopped:
                piece, tokens = answer.certain(text), answer.tokens(row)
                if piece or tokens:
                    self._tell(Piece(index, piece, tokens, answer.ids(row)))
            return stopped

        def last(row: Row, reason: Reason) -> Piece:
            text = answer.text(row.written)
            whole = before(text, job.stop)
            rest = answer.new(whole)
            return Piece(index, rest, answer.tokens(row, cut=whole != text), answer.ids(row), reason)

        def over(reason: Reason) -> None:
            piece = Piece(index, "", [], [], reason)
            if (row := ticket.row) is not None:
                self.written += len(row.written)
                try:
                    piece = last(row, reason)
                except Exception:  # for example in the tokenizer; the client must still hear of the end
                    LOG.exception("the end of an answer cannot be read")
                    piece = Piece(index, "", [], [], "error")
            self._tell(piece)

        def make_row() -> Row:
            return Row(job.ids, tasks.front(job.task), job.most, job.sampling, job.task.ends, job.logprobs or 0)

        ticket = Ticket(make_row, job.positions, heard, over, deadline)
        return ticket

    def _tell(self, piece: Piece) -> None:
        with suppress(RuntimeError):  # the loop is closed, and the client has left
            self._loop.call_soon_threadsafe(self._queue.put_nowait, piece)
