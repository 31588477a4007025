"""Traffic that is shared out over several adapters, and the log that tells what became of it."""

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
    """Model names that stand for several adapters by weight.

    Args:
        shares: by name the weights of adapters.
        log: file that gets a JSON line for each answer and each outcome; None for none.

    Raises:
        UserError: a log that cannot be written.
    """

    def __init__(self, shares: dict[str, dict[str, float]], log: str | None = None) -> None:
        self.shares, self._log = shares, None if log is None else Path(log)
        self._lock = threading.Lock()
        self._answers: OrderedDict[str, dict[str, Any]] = OrderedDict()  # by id who asked, and who answered
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
        """Return a split that an adapter takes a part of; None if there is none."""
        return next((name for name, shares in self.shares.items() if adapter in shares), None)

    def choose(self, name: str, user: str | None) -> str:
        """Return the adapter that answers a request for `name`: always the same for one user, if the request says who.

        A name that is no split is returned as it is.
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
        """Log an answer to a request for a split; nothing for other names. Of its user the log has a digest."""
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
        """Log what became of an answer, with all that says whose it was; return whether there was such an answer."""
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
        except OSError:  # a full disk, say: the answer is there all the same
            LOG.exception("serve.split_log: %s cannot be written", self._log)
