"""Text and tokens of an answer as it grows: half characters, stop texts, log-probabilities."""

from __future__ import annotations

from softprompts.serving.batch import Row, Sampling
from softprompts.serving.http.generation import Answer, Job, Piece
from softprompts.serving.http.replies import Reply, _event
from softprompts.serving.tasks import ServedTask

import pytest

BASE = ServedTask("base", None, None, {})


class Bytes:
    """A tokenizer whose tokens are bytes."""

    def decode(self, ids: list[int], **_: bool) -> str:
        return bytes(ids).decode(errors="replace")


def grown(text: str, stop: tuple[str, ...] = (), logprobs: int | None = 0) -> tuple[list[str], list[str], str]:
    """Let an answer grow byte by byte; return its pieces, the tokens told with each, and the rest at its end."""
    answer = Answer(Bytes(), Job(BASE, [1], 99, Sampling(), stop, logprobs))  # type: ignore[arg-type]
    row, pieces, tokens = Row([1], None, 99), [], []
    for byte in text.encode():
        row.written.append(byte)
        row.logprobs.append(-float(byte))
        pieces.append(answer.certain(answer.text(row.written)))
        tokens += [f"{token.offset}" for token in answer.tokens(row)]
    return pieces, tokens, answer.new(answer.text(row.written))


@pytest.mark.parametrize("text", ["plain", "Привет мир", "😀😀", "a\n答案b"])
def test_pieces_are_whole_characters_and_make_up_the_text(text: str) -> None:
    pieces, offsets, rest = grown(text)
    assert "".join(pieces) == text
    assert rest == ""
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)
    expected = [n for n, character in enumerate(text) for _ in character.encode()]
    assert offsets == [str(n) for n in expected], "a token for each byte, at the place of its character"


def test_the_beginning_of_a_stop_text_is_held_back_also_before_half_a_character() -> None:
    pieces, offsets, rest = grown("ab\n答x", stop=("\n答案",))
    assert pieces[:6] == ["a", "b", "", "", "", ""]
    assert "".join(pieces) + rest == "ab\n答x"
    assert grown("ab\n答x", stop=("\n答案",), logprobs=None)[1] == []
    assert offsets[:2] == ["0", "1"]


def test_tokens_of_a_cut_answer_end_where_its_text_does() -> None:
    answer = Answer(Bytes(), Job(BASE, [1], 99, Sampling(), ("b",), 0))  # type: ignore[arg-type]
    row = Row([1], None, 99, written=list("éab".encode()), logprobs=[-1.0] * 4)
    assert answer.new("éa") == "éa"
    assert [token.offset for token in answer.tokens(row, cut=True)] == [0, 0, 1]


def test_bytes_of_half_a_character_are_not_made_up() -> None:
    answer = Answer(Bytes(), Job(BASE, [1], 99, Sampling(), (), 0))  # type: ignore[arg-type]
    row = Row([1], None, 99, written=list("éa".encode()), logprobs=[-1.0] * 3)
    answer.new("éa")
    choice = Reply("id", "m", 1, chat=True).whole([Piece(0, "éa", answer.tokens(row), [], "stop")], [answer.job], 3)[
        "choices"
    ][0]
    assert [entry["bytes"] for entry in choice["logprobs"]["content"]] == [None, None, [97]]


def test_an_event_is_one_line_to_whoever_parts_lines() -> None:
    event = _event({"text": "a\u2028b\x85c\nd 世"})
    assert len(event.splitlines()) == 2
    assert event.splitlines()[1] == ""
