"""Personal data in rows: found by presidio's pattern recognisers, and masked or refused before a row is rendered.

Nothing is asked over a network. The recognisers are regular expressions and checksums; the spaCy pipeline is blank.
They find values with a form of their own, such as e-mail addresses. They find no names of people or places.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from itertools import chain, count
from typing import Any

from softprompts.data.values import Record
from softprompts.errors import UserError, listed, short

INSTALL = 'needs more packages; install them: in a clone, pip install -e ".[readiness]"'
PACKAGES = ("presidio_analyzer", "spacy", "tldextract")
# A phone number scores 0.4 without a word such as "call" near it. Weak patterns, such as any nine digits, score less.
THRESHOLD = 0.4
# Patterns can match only a text with one of these: an "@" (e-mail), a word as long as an account of a digital currency,
# six digits that are near each other, four numbers with dots between them (IP), or groups of hexadecimal digits (IPv6,
# MAC). This test is fast; a search for all patterns takes milliseconds.
POSSIBLE = re.compile(
    r"@|\w{26}|\d(?:\D{0,9}\d){5}|\d\.\d+\.\d+\.\d|(?<![^\W_])[\da-f]{0,4}:[\da-f]{0,4}:"
    r"|[\da-f]{4}\.[\da-f]{4}\.|[\da-f]{2}-[\da-f]{2}-[\da-f]{2}-",
    re.IGNORECASE,
)
# A word and digits, such as "de-073259038455": an identifier, and no phone number, unless the word says so.
IDENTIFIER = re.compile(
    r"(?<![^\W_])(?![a-z]*(?:phone|fon)|tel|mob|mov|cel|fax|handy|whatsapp|(?:ph|call|sms|wa|gsm)[-_])"
    r"[a-z]+[-_]\d+(?![^\W_])",
    re.IGNORECASE,
)
# A date, maybe with a time of day: the pattern of phone numbers finds "03.05.2026" and "31.05.2026 12".
TIME = re.compile(
    r"(?<!\d)([0-3]?\d([./-])[0-3]?\d\2(19|20)\d\d|(19|20)\d\d([./-])[01]?\d\5[0-3]?\d)([ T]\d{1,2}:\d\d)?(?!\d)"
)
# A postcode after the state in the United States, a clause of procurement, and the month of a version: "MA 02110-1301",
# "FAR 52.227-19", "2.0.0-2023-06". The licences of the Free Software Foundation have its address.
CODE = re.compile(
    r"(?<![A-Za-z])(?:[A-Z]{2},? +\d{5}|D?FARS? +\d+\.\d+)-\d+(?!\d)"
    r"|(?<!\d)(?:\d{1,4}\.){1,3}\d{1,4}-(?:19|20)\d\d-[01]\d(?![\d-])"
)
FEWEST_DIGITS = 6  # of a phone number
# A number alone, as in a cell: seconds since 1970 and identifiers have as many digits as phone numbers. A phone number
# may begin with 0, and those do not.
NUMBER = re.compile(r"\s*-?[1-9]\d*(\.\d+)?\s*")
# The name of a column of phone numbers, and that of a time, as in phone_verified_at.
PHONES = re.compile(
    r"phone|whatsapp|msisdn|caller|contact|(?<![a-z])(fax|handy|mobile?|m[oó]vil|cel(l|ular)?|ph|tel|gsm)(?![a-z])"
    r"|fon(?![a-z])|(?<![a-z])tel(no|nr)",
    re.IGNORECASE,
)
TIMES = re.compile(r"(_at|At|time|date|stamp|_ts)$")
# Ends of domains that no public list has: reserved ones (RFC 2606, RFC 6762) and those of companies' own networks.
INTERNAL = {"local", "localhost", "localdomain", "lan", "corp", "internal", "intranet", "private", "home"}
INTERNAL |= {"test", "example", "invalid"}
# An account number in groups of four. Each number of groups has its pattern, because a word of four may follow.
IBANS = [
    rf"(?<![A-Z0-9])([A-Z]{{2}}[0-9]{{2}}(?:[ -]?[A-Z0-9]{{4}}){{{n}}})((?:[ -]?[A-Z0-9]{{1,3}})?)(?![A-Z0-9])"
    for n in range(2, 8)
]
REPEATED = 4096  # texts whose result is kept, because columns such as dates have the same value in many rows
# A smaller whole number is neither a phone number nor the number of a card, and a larger one has too many digits.
SHORTEST_NUMBER, LONGEST_NUMBER = 10**8, 10**50
# Kinds whose punctuation only groups characters. In e-mail and IP addresses, other punctuation is another address.
GROUPED = (
    "PHONE_NUMBER",
    "CREDIT_CARD",
    "IBAN_CODE",
    "MAC_ADDRESS",
    "US_SSN",
    "UK_NINO",
    "ES_NIF",
    "ES_NIE",
    "IT_FISCAL_CODE",
)
LONGEST_TEXT = 2**31 - 1  # characters; spaCy's own limit is for its parser, which is not used


@dataclass(frozen=True)
class Found:
    """Personal data in a text, from character `start` to before `end`. `kind` is presidio's, e.g. EMAIL_ADDRESS."""

    start: int
    end: int
    kind: str
    score: float


def _installed() -> bool:
    return all(find_spec(name) is not None for name in PACKAGES)


def check_packages(key: str) -> None:
    """Raise `UserError`, under the name of a setting, if the packages that find personal data are not installed."""
    if not _installed():
        raise UserError(f"{key}: {INSTALL}")


def finder_version() -> str:
    """Return the versions of the packages that determine the findings."""
    return f"presidio-analyzer {version('presidio-analyzer')}, phonenumbers {version('phonenumbers')}"


def find(text: str, name: str = "") -> Sequence[Found]:
    """Return the personal data in a text, in order. Matches that overlap are one, of the kind that scores highest.

    Args:
        text: the text.
        name: that of its column or key. A number alone, such as 1717171717, is a phone number only if the name says so.
    """
    if not POSSIBLE.search(text):
        return ()
    found = _search(text)
    if NUMBER.fullmatch(text) and (not PHONES.search(name) or TIMES.search(name)):
        return tuple(one for one in found if one.kind != "PHONE_NUMBER")
    return found


@lru_cache(maxsize=REPEATED)
def _search(text: str) -> tuple[Found, ...]:
    others = [match.span() for pattern in (IDENTIFIER, CODE, TIME) for match in pattern.finditer(text)]
    found = [
        Found(r.start, r.end, r.entity_type, r.score)
        for r in _analyzer().analyze(text, language="en", score_threshold=THRESHOLD)
        if r.entity_type != "PHONE_NUMBER" or _is_phone(text, r.start, r.end, others)
    ]
    apart: list[Found] = []
    for one in sorted(found, key=lambda f: (f.start, -f.end)):
        if apart and one.start < apart[-1].end:
            last = apart[-1]
            best = max(last, one, key=lambda f: (f.score, f.end - f.start))
            apart[-1] = Found(last.start, max(last.end, one.end), best.kind, best.score)
        else:
            apart.append(one)
    return tuple(apart)


def _is_phone(text: str, start: int, end: int, others: Sequence[tuple[int, int]]) -> bool:
    """Return whether a match has enough digits outside of other numbers: "1.1 2003-01-21" is a version and its date."""
    return sum(text[n].isdigit() and not any(s <= n < e for s, e in others) for n in range(start, end)) >= FEWEST_DIGITS


@cache
def _analyzer() -> Any:
    # Not above: they come with an extra, and take seconds to import.
    import spacy
    import tldextract
    from presidio_analyzer import AnalyzerEngine, Pattern, RecognizerRegistry, predefined_recognizers as known
    from presidio_analyzer.nlp_engine import SpacyNlpEngine
    from spacy.language import Language

    domains = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)  # the default would ask the network

    class OfflineEmailRecognizer(known.EmailRecognizer):
        def validate_result(self, pattern_text: str) -> bool:
            suffix = re.split("[.@]", pattern_text)[-1]
            return suffix.casefold() in INTERNAL or bool(domains(pattern_text).fqdn)

    class CardRecognizer(known.CreditCardRecognizer):
        def validate_result(self, pattern_text: str) -> bool:
            digits = re.sub(r"\D", "", pattern_text)
            # Only UATP's numbers begin with 1, and have 15 digits. Microseconds since 1970 have 16.
            return (digits[0] != "1" or len(digits) == 15) and bool(super().validate_result(pattern_text))

    @Language.component("softprompts_lemmas")
    def lemmas(doc: Any) -> Any:
        for token in doc:  # presidio looks for words such as "phone" among lemmas, of which a blank pipeline has none
            token.lemma_ = token.lower_
        return doc

    pipeline = spacy.blank("en")
    pipeline.max_length = LONGEST_TEXT
    pipeline.add_pipe("softprompts_lemmas")
    engine: Any = SpacyNlpEngine()
    engine.nlp = {"en": pipeline}
    local = Pattern("on this machine", r"(?<![\w.+-])[\w.+-]+@localhost(?![\w-]|\.\w)", 0.5)
    mails: Any = [*known.EmailRecognizer.PATTERNS, local]
    ibans: Any = [Pattern("account number", pattern, 0.5) for pattern in IBANS]  # presidio's finds capital letters only
    recognizers: list[Any] = [
        lambda **more: OfflineEmailRecognizer(mails, **more),
        known.PhoneRecognizer,
        CardRecognizer,
        lambda **more: known.IbanRecognizer(ibans, regex_flags=re.IGNORECASE, **more),
        known.IpRecognizer,
        known.MacAddressRecognizer,
        known.CryptoRecognizer,
        known.UsSsnRecognizer,
        known.UkNinoRecognizer,
        known.EsNifRecognizer,
        known.EsNieRecognizer,
        known.ItFiscalCodeRecognizer,
    ]
    registry = RecognizerRegistry([kind(supported_language="en") for kind in recognizers], supported_languages=["en"])
    return AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=["en"])


def kinds() -> list[str]:
    """Return every kind of personal data that can be found."""
    return sorted(_analyzer().get_supported_entities("en"))


def texts_in(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the texts of a value, each with the name of its column or key.

    These are the value itself, those inside lists and objects, the keys of objects, and long whole numbers.
    """
    if isinstance(value, str):
        yield value, name
    elif digits := _digits(value):
        yield digits, name
    elif isinstance(value, list):
        for item in value:
            yield from texts_in(item, name)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from texts_in(key, name)
            yield from texts_in(item, str(key))


def _digits(value: Any) -> str:
    """Return the digits of a long whole number; empty for another value.

    Whole numbers may be floats: pandas makes floats of the whole numbers of a column with gaps.
    """
    is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if not is_number or value != value or not SHORTEST_NUMBER <= abs(value) < LONGEST_NUMBER:
        return ""
    return str(int(value)) if value == int(value) else ""


def kinds_by_column(record: Record) -> dict[str, Counter[str]]:
    """Return, for each column with personal data, how many values of each kind it holds."""
    counts = {
        column: Counter(found.kind for text, name in texts_in(value, column) for found in find(text, name))
        for column, value in record.items()
    }
    return {column: kinds for column, kinds in counts.items() if kinds}


def check_column_names(place: str, names: Iterable[str]) -> None:
    """Raise `UserError` for personal data in the name of a column, which is not repeated: a message may be logged."""
    for number, name in enumerate(names, start=1):
        if found := find(name):
            raise UserError(
                f"{place}: the name of column {number} holds personal data ({found[0].kind}); rename the column"
            )


def mask(record: Record) -> tuple[Record, Counter[str]]:
    """Return a record with a mask such as <EMAIL_ADDRESS_1> for each value, and the number of masked values per kind.

    A value has the same mask throughout the record, with any case; numbers of the kinds in `GROUPED` also with any
    punctuation. Other values have other numbers. The value is replaced at every place, even if no pattern has found it
    there.
    """
    names: dict[tuple[str, str], str] = {}
    masks: dict[str, tuple[str, str]] = {}
    numbers: dict[str, Iterator[int]] = {}
    for text, column in texts_in(record):
        for found in find(text, column):
            value = text[found.start : found.end]
            folded = value.casefold()
            same = (found.kind, re.sub(r"[\W_]+", "", folded) if found.kind in GROUPED else folded)
            if same not in names:
                names[same] = f"<{found.kind}_{next(numbers.setdefault(found.kind, count(1)))}>"
            masks[value] = (found.kind, names[same])
    counts: Counter[str] = Counter()
    if not masks:
        return record, counts
    longest_first = sorted(masks, key=len, reverse=True)
    values = re.compile("|".join(f"({re.escape(value)})" for value in longest_first), re.IGNORECASE)

    def masked(match: re.Match[str]) -> str:
        kind, name = masks[longest_first[(match.lastindex or 0) - 1]]
        counts[kind] += 1
        return name

    return {column: _replaced(value, lambda text: values.sub(masked, text)) for column, value in record.items()}, counts


def shown_names(names: Iterable[str]) -> dict[str, str]:
    """Return how a page shows each name, such as a label: with masks for personal data.

    Without the packages that find personal data, all are as they are.
    """
    given = list(names)
    shown = distinct(mask({"names": given})[0]["names"]) if _installed() else given
    return dict(zip(given, shown, strict=True))


def _replaced(value: Any, replace: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return replace(value)
    if digits := _digits(value):
        text = replace(digits)
        return value if text == digits else text
    if isinstance(value, list):
        return [_replaced(item, replace) for item in value]
    if isinstance(value, dict):
        keys = distinct([_replaced(key, replace) for key in value])
        return {key: _replaced(item, replace) for key, item in zip(keys, value.values(), strict=True)}
    return value


def distinct(names: Iterable[str]) -> list[str]:
    """Return names with a number after each that came before: masks may make different names the same."""
    found: dict[str, None] = {}
    for name in names:
        others = (f"{name} ({number})" for number in count(2))
        found[next(one for one in chain([name], others) if one not in found)] = None
    return list(found)


class Privacy:
    """Applies `task.pii` to rows, one after the other."""

    def __init__(self, handling: str) -> None:
        """Take a value of `task.pii`.

        Raises:
            UserError: the packages that find personal data are not installed.
        """
        self.handling = handling
        self._names: set[tuple[str, ...]] = set()
        if handling != "keep":
            check_packages("task.pii")

    def clean(self, place: str, record: Record) -> tuple[Record, Counter[str]]:
        """Return a record as the task sees it, and how many values of each kind were masked.

        Raises:
            UserError: personal data in the name of a column, or in a row if they are refused; never with the value.
        """
        if self.handling == "keep":
            return record, Counter()
        names = tuple(record)
        if names not in self._names:
            check_column_names(place, names)
            self._names.add(names)
        if self.handling == "mask":
            return mask(record)
        for column, found in kinds_by_column(record).items():
            raise UserError(
                f'{place}: column "{short(column)}" holds personal data ({listed(found)}), and task.pii is refuse; '
                "take the row out, or set task.pii to mask"
            )
        return record, Counter()
