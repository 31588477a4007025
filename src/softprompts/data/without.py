"""Rows that a task leaves out, named by fingerprints, so that no text has to be kept to know what was left out."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

from softprompts.data.readers import read_text
from softprompts.data.values import Field, Record, fields_of
from softprompts.errors import UserError, short

FINGERPRINT = re.compile(r"[0-9a-f]{64}")
HEAD = "# SHA-256 of rows that are left out, one per line. recipes/forget.py wrote them.\n"


def text_of(prompt: str, target: str) -> Callable[[Record], str]:
    """Return a function of a record that gives what two templates show of it, as one normalised text.

    Columns, keys and cut ends that no field shows do not count, nor do the words of the templates. Texts are compared
    without case, runs of spaces, and forms of Unicode characters that mean the same (NFKC). The input is on the first
    line, the target on the second.
    """
    shown = [fields_of(template) for template in (prompt, target)]

    def text(record: Record) -> str:
        return "\n".join(normalised(" ".join(_text(field, record) for field in fields)) for fields in shown)

    return text


def values_of(template: str, record: Record) -> list[str]:
    """Return what each field of a template shows of a record, as normalised texts, without empty ones."""
    return [text for field in fields_of(template) if (text := normalised(_text(field, record)))]


def _text(field: Field, record: Record) -> str:
    try:
        return field.text(record, "")
    except (ValueError, TypeError, ArithmeticError):  # the task refuses such a row, or does not use it
        return ""


def normalised(text: str) -> str:
    """Return a text for comparisons: without case, runs of spaces, and other forms of Unicode characters (NFKC)."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def fingerprint(text: str) -> str:
    """Return the SHA-256 of a text from `text_of`, as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def read_without(path: str) -> frozenset[str]:
    """Return the fingerprints in a file: one per line; empty lines, and lines that begin with #, do not count.

    Raises:
        UserError: the file is missing, not text, or has another kind of line, or no fingerprint.
    """
    found = set()
    for number, line in enumerate(read_text(Path(path)).splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if not FINGERPRINT.fullmatch(text):
            raise UserError(
                f"{path}:{number}: expected a fingerprint of 64 hexadecimal digits, found {short(text, 40)}; "
                "recipes/forget.py makes them from rows"
            )
        found.add(text)
    if not found:
        raise UserError(f"{path}: holds no fingerprint; set task.without to null to leave out no row")
    return frozenset(found)


def without_file(fingerprints: Iterable[str]) -> str:
    """Return the content of a file for `read_without`."""
    return HEAD + "".join(f"{one}\n" for one in sorted(set(fingerprints)))
