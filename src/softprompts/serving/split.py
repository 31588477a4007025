"""Split requests between several adapters, and log the answers and their outcomes."""

from __future__ import annotations

import hashlib
import json
import logging
import random
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

from softprompts.errors import UserError

LOG = logging.getLogger(__name__)
REMEMBERED = 100_000  # answers whose outcome can still come


class Splits:
    """Model names whose requests go to several adapters, by weight.

    Args:
        shares: for each name, the weights of its adapters.
        log: file for one JSON line per answer and per outcome; None for no log.

    Raises:
        UserError: the log cannot be written.
    """

    def __init__(self, shares: dict[str, dict[str, float]], log: str | None = None) -> None:
        self.shares, self._log = shares, None if log is None else Path(log)
        self._lock = threading.Lock()
        self._answers: OrderedDict[str, dict[str, Any]] = OrderedDict()  # by id: split, adapter and the user's digest
        if self._log:
            try:
                self._log.open("a", encoding="utf-8").close()
            except OSError as error:
                raise UserError(f"serve.split_log: cannot write {log}: {error.strerror}") from None

    @property
    def names(self) -> list[str]:
        """The names of all splits."""
        return list(self.shares)

    def needing(self, adapter: str) -> str | None:
        """Return a split that an adapter is part of; None if no split uses it."""
        return next((name for name, shares in self.shares.items() if adapter in shares), None)

    def choose(self, name: str, user: str | None) -> str:
        """Return the adapter that answers a request for `name`; it is always the same for one user, if known.

        Without a split of this name, return the name itself.
        """
        shares = self.shares.get(name)
        if shares is None:
            return name
        if user is None:
            return random.choices(list(shares), list(shares.values()))[0]
        digest = hashlib.sha256(f"{name}\0{user}".encode()).digest()
        point = int.from_bytes(digest[:8], "big") / 2**64 * sum(shares.values())
        for adapter, share in shares.items():
            point -= share
            if point < 0:
                return adapter
        return adapter

    def answered(self, request: str, name: str, adapter: str, *, user: str | None, **facts: Any) -> None:
        """Log an answer if its request was for a split. The log has only a digest of the user."""
        if name not in self.shares:
            return
        known = None if user is None else hashlib.sha256(f"log\0{name}\0{user}".encode()).hexdigest()[:16]
        who = {"id": request, "split": name, "adapter": adapter, "user": known}
        with self._lock:
            self._answers[request] = who
            while len(self._answers) > REMEMBERED:
                self._answers.popitem(last=False)
        self._write({**who, **facts})

    def outcome(self, request: str, value: float) -> bool:
        """Log the outcome of an answer, with its split, adapter and user; return whether the answer is known."""
        with self._lock:
            who = self._answers.get(request)
        if who is None:
            return False
        self._write({**who, "outcome": value})
        return True

    def _write(self, record: dict[str, Any]) -> None:
        if self._log is None:
            return
        line = json.dumps({"time": round(time.time(), 3), **record})
        try:
            with self._lock, self._log.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError:  # for example a full disk; the client still gets its answer
            LOG.exception("serve.split_log: %s cannot be written", self._log)
