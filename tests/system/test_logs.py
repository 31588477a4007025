"""The library's log: silent unless SOFTPROMPTS_LOG asks for it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from softprompts.errors import UserError
from softprompts.system.logs import print_log

import pytest

logger = logging.getLogger("softprompts")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    level, handlers = logger.level, logger.handlers
    logger.handlers = []  # `print_log` would change the level of one that is there
    yield
    logger.setLevel(level)
    logger.handlers = handlers


@pytest.mark.parametrize(("level", "shown"), [(None, False), ("debug", True), ("DEBUG", True), ("warning", False)])
def test_the_log_is_printed_from_the_level_that_is_asked_for(
    level: str | None, shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SOFTPROMPTS_LOG", raising=False)
    if level:
        monkeypatch.setenv("SOFTPROMPTS_LOG", level)
    print_log()
    print_log()
    logging.getLogger("softprompts.anything").debug("found out")
    assert capsys.readouterr().err == ("DEBUG softprompts.anything: found out\n" if shown else "")


def test_a_level_that_there_is_not_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTPROMPTS_LOG", "debugg")
    with pytest.raises(UserError, match=r'^SOFTPROMPTS_LOG: "debugg" \(did you mean "debug"\?\)$'):
        print_log()
