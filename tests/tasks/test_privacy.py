"""Personal data: found without a network, masked consistently within a row, refused without the value."""

from __future__ import annotations

import json
import math
import socket
from decimal import Decimal
from pathlib import Path
from typing import Any

from helpers import ROOT
from made_result import make_result
from made_tasks import loader, refusal, rows_of, write
from softprompts.config.sections import TaskConfig
from softprompts.data import tables
from softprompts.data.sources import SPLITS
from softprompts.errors import UserError
from softprompts.reports.run import card
from softprompts.runs.fingerprints import changes
from softprompts.tasks import privacy
from softprompts.tasks.privacy import find, mask
from softprompts.tasks.task import load_task, load_unmasked
from softprompts.tasks.templates import render

import pytest

pytest.importorskip("presidio_analyzer", reason="needs the extra `readiness`")

MAIL, PHONE = "jane.roe@example.com", "+1 415 555 2671"
VALUES = {
    "EMAIL_ADDRESS": MAIL,
    "PHONE_NUMBER": PHONE,
    "CREDIT_CARD": "4111 1111 1111 1111",
    "IBAN_CODE": "GB82 WEST 1234 5698 7654 32",
    "IP_ADDRESS": "192.168.17.4",
    "MAC_ADDRESS": "00:1A:2B:3C:4D:5E",
    "US_SSN": "536-22-1234",
    "UK_NINO": "AB 12 34 56 C",
    "IT_FISCAL_CODE": "RSSMRA85T10A562S",
    "ES_NIF": "12345678Z",
    "CRYPTO": "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa",
}


@pytest.mark.parametrize("kind", VALUES)
def test_each_kind_is_found_at_its_place(kind: str) -> None:
    text = f"They wrote {VALUES[kind]} on it"
    assert [(f.kind, text[f.start : f.end]) for f in find(text)] == [(kind, VALUES[kind])]


@pytest.mark.parametrize(
    "text",
    [
        "the film was good and the plot was fine",
        "It cost 12.50 on 2026-05-31 at 12:30, or 1,000,000 in 1999",
        "a 16 digit number that is no card: 4111 1111 1111 1112",
        "write to me @home; ratio 3:4; version 1.2.3",
        "",
    ],
)
def test_what_is_none_is_not_found(text: str) -> None:
    assert list(find(text)) == []


@pytest.mark.parametrize(
    "value", ["2001:db8::ff00:42:8329", "fe80::1", "AA-BB-CC-DD-EE-FF", "AABB.CCDD.EEFF", "8.8.8.8"]
)
def test_addresses_with_few_digits_are_not_passed_over(value: str) -> None:
    assert [value[f.start : f.end] for f in find(value)] == [value]


def test_matches_that_overlap_are_one_so_that_no_part_of_a_value_stays() -> None:
    record, counts = mask({"text": f"card {VALUES['CREDIT_CARD']} and account {VALUES['IBAN_CODE']}"})
    assert record == {"text": "card <CREDIT_CARD_1> and account <IBAN_CODE_1>"}
    assert counts == {"CREDIT_CARD": 1, "IBAN_CODE": 1}


def test_nothing_is_asked_over_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    privacy._analyzer.cache_clear()
    privacy._search.cache_clear()
    assert [found.kind for found in find(f"{MAIL} {PHONE}")] == ["EMAIL_ADDRESS", "PHONE_NUMBER"]


def test_a_value_has_one_mask_throughout_a_row_and_another_value_another() -> None:
    record, counts = mask(
        {
            "text": f"From {MAIL} to bob@example.org, again {MAIL.upper()}",
            "answer": f"Write to bob@example.org, call {PHONE} or +14155552671",
            "more": {"cc": [MAIL, "nobody"], MAIL: 1},
            "phone": 14155552671,
            "id": 17,
        }
    )
    assert record == {
        "text": "From <EMAIL_ADDRESS_1> to <EMAIL_ADDRESS_2>, again <EMAIL_ADDRESS_1>",
        "answer": "Write to <EMAIL_ADDRESS_2>, call <PHONE_NUMBER_1> or <PHONE_NUMBER_1>",
        "more": {"cc": ["<EMAIL_ADDRESS_1>", "nobody"], "<EMAIL_ADDRESS_1>": 1},
        "phone": "<PHONE_NUMBER_1>",
        "id": 17,
    }
    assert counts == {"EMAIL_ADDRESS": 6, "PHONE_NUMBER": 3}


@pytest.mark.parametrize("account", ["AT611904300234573201", "DE89 3704 0044 0532 0130 00", "NL91ABNA0417164300"])
@pytest.mark.parametrize("after", ["", " from here on", " is it", "."])
def test_an_account_number_is_found_in_any_case(account: str, after: str) -> None:
    for value in (account, account.lower()):
        text = f"pay {value}{after}"
        assert [(f.kind, text[f.start : f.end]) for f in find(text)] == [("IBAN_CODE", value)]
    assert mask({"a": f"{account}; {account.lower()}"})[0] == {"a": "<IBAN_CODE_1>; <IBAN_CODE_1>"}


def test_a_value_is_masked_in_any_case_where_no_pattern_finds_it() -> None:
    """Letters around it keep a pattern from finding it."""
    record, _ = mask({"text": f"{VALUES['IT_FISCAL_CODE']} and x{VALUES['IT_FISCAL_CODE'].lower()}x"})
    assert record == {"text": "<IT_FISCAL_CODE_1> and x<IT_FISCAL_CODE_1>x"}


def test_keys_that_masks_make_the_same_keep_their_values() -> None:
    record, _ = mask({"by": {MAIL: 1, MAIL.upper(): 2, "a": 3}})
    assert record == {"by": {"<EMAIL_ADDRESS_1>": 1, "<EMAIL_ADDRESS_1> (2)": 2, "a": 3}}


def test_other_punctuation_is_another_address_but_the_same_number() -> None:
    record, _ = mask(
        {
            "ip": "from 1.2.34.5 to 12.3.4.5 via 1.23.4.5",
            "mail": "john.doe@example.com, JohnDoe@example.com, johndoe@example.com",
            "card": "4111 1111 1111 1111 is 4111-1111-1111-1111",
            "mac": "AA-BB-CC-DD-EE-FF is aa:bb:cc:dd:ee:ff",
        }
    )
    assert record == {
        "ip": "from <IP_ADDRESS_1> to <IP_ADDRESS_2> via <IP_ADDRESS_3>",
        "mail": "<EMAIL_ADDRESS_1>, <EMAIL_ADDRESS_2>, <EMAIL_ADDRESS_2>",
        "card": "<CREDIT_CARD_1> is <CREDIT_CARD_1>",
        "mac": "<MAC_ADDRESS_1> is <MAC_ADDRESS_1>",
    }


def test_every_kind_whose_punctuation_means_nothing_can_be_found() -> None:
    assert set(privacy.GROUPED) < set(privacy.kinds())


CARD = 4111111111111111


@pytest.mark.parametrize("number", [CARD, float(CARD), Decimal(CARD), Decimal(CARD).quantize(Decimal("0.01"))])
def test_a_number_is_masked_whatever_its_type(number: Any) -> None:
    record = {"card": number, "text": f"card {CARD}", "more": [number]}
    assert mask(record)[0] == {"card": "<CREDIT_CARD_1>", "text": "card <CREDIT_CARD_1>", "more": ["<CREDIT_CARD_1>"]}
    assert privacy.kinds_by_column(record)["card"] == {"CREDIT_CARD": 1}


@pytest.mark.parametrize(
    "number",
    [CARD + 0.5, 12.0, True, math.nan, math.inf, 1e300, Decimal("nan"), Decimal("inf"), Decimal("1e999999"), None],
)
def test_a_number_that_is_none_stays(number: Any) -> None:
    assert mask({"n": number})[0]["n"] is number


@pytest.mark.parametrize("field", ["{card:.0f}", "{card:,.2f}", "{card}", "{card!s}"])
def test_a_field_shows_the_mask_of_a_number_whatever_its_format(field: str) -> None:
    assert render(field, mask({"card": float(CARD)})[0], "here") == "<CREDIT_CARD_1>"
    with pytest.raises(UserError, match="cannot fill the template"):
        render("{card:.0f}", {"card": "the card <CREDIT_CARD_1>"}, "here")


@pytest.mark.parametrize(
    "number", [1_717_171_717, 1_717_171_717.0, 2_125_551_234, "1717171717", " 2125551234 ", "1717171717.5"]
)
def test_a_number_alone_is_a_phone_number_only_if_its_column_says_so(number: Any) -> None:
    """Seconds since 1970 and identifiers have as many digits."""
    for name in ("time", "id", "phone_verified_at", "callTimestamp", "telemetry", "number"):
        record = {name: number, "more": [{name: number}]}
        assert mask(record) == (record, {}), name
    for name in ("phone", "customerPhone", "Telefon", "tel_nr", "mobile_number", "fax", "cell", "WhatsApp", "contact"):
        masked, _ = mask({name: number, "more": [{name: number}]})
        assert "<PHONE_NUMBER_1>" in masked[name], name
        assert masked["more"][0][name] == masked[name]


@pytest.mark.parametrize("text", ["call 2125551234", "+14155552671", "015112345678", "415-555-2671"])
def test_a_number_with_another_sign_or_word_is_a_phone_number_in_any_column(text: str) -> None:
    assert privacy.kinds_by_column({"reached": text}) == {"reached": {"PHONE_NUMBER": 1}}


def test_a_phone_number_next_to_a_date_or_a_state_is_found() -> None:
    text = "phone +49 7071 123456 since 2003-01-21, Tel. 02110-1301, CA (415) 492-9861"
    found = [text[f.start : f.end] for f in find(text) if f.kind == "PHONE_NUMBER"]
    assert [one.split()[0] for one in found] == ["+49", "02110-1301", "(415)"]


@pytest.mark.parametrize(
    "text",
    [
        "31.05.2026 12:30",
        *(f"{day:02d}.{month:02d}.2026" for day in range(1, 32) for month in (1, 5, 12)),
        "sent 31-05-2026 12:30:15.",
        "2026.05.31 12:30",
        *(str(1_717_171_717_000_000 + n) for n in range(20)),
        "Fifth Floor, Boston, MA 02110-1301 USA",
        "Novato, CA  94945-1234",
        "DFARS 252.227-7013 (Nov. 1995), FAR 52.227-19",
        "version 1.1 2003-01-21",
        "liferay-dxp-eula-2.0.0-2023-06",
    ],
)
def test_dates_codes_and_microseconds_are_no_personal_data(text: str) -> None:
    assert list(find(text)) == []


@pytest.mark.parametrize(
    "address",
    ["anna.schmidt@firma.local", "admin@localhost", "a-b@mail.corp", "x@files.office.LAN", "ann@host.internal"],
)
def test_addresses_of_internal_domains_are_found(address: str) -> None:
    text = f"ask <{address}>, or @home, or nobody@nowhere"
    assert [(f.kind, text[f.start : f.end]) for f in find(text)] == [("EMAIL_ADDRESS", address)]
    assert mask({"text": f"{address}."})[0] == {"text": "<EMAIL_ADDRESS_1>."}


def test_numbers_start_anew_in_each_row() -> None:
    assert [mask({"text": f"ask {name}@example.com"})[0]["text"] for name in ("ann", "bob")] == [
        "ask <EMAIL_ADDRESS_1>"
    ] * 2


def test_all_splits_are_masked_before_they_are_rendered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [*rows_of(3), {"text": f"ask {MAIL}", "label": "bad"}]
    load = loader(tmp_path)
    kept, masked = load(rows, rows), load(rows, rows, pii="mask")
    for split in ("train", "test"):
        assert MAIL in kept.splits[split][3].prompt
        row = masked.splits[split][3]
        assert (row.prompt, row.record["text"]) == ("ask <EMAIL_ADDRESS_1>\n:", "ask <EMAIL_ADDRESS_1>")
    assert masked.masked == {"train": {"EMAIL_ADDRESS": 1}, "validation": {}, "test": {"EMAIL_ADDRESS": 1}}
    assert "task.pii: masked in train: 1 EMAIL_ADDRESS" in caplog.text
    assert MAIL not in caplog.text + json.dumps(masked.fingerprint())


TEAMS = ("billing@example.com", "support@example.com")


@pytest.mark.parametrize("choices", ["from_train", [f" {team}" for team in TEAMS]])
def test_labels_that_masks_would_make_one_are_refused_without_the_value(tmp_path: Path, choices: Any) -> None:
    rows = [{"text": f"text {i}", "label": TEAMS[i % 2]} for i in range(4)]
    said = refusal(loader(tmp_path), rows, rows, choices=choices, pii="mask")
    assert said == (
        f"{tmp_path / 'train.jsonl'}:1: task.pii is mask, which changes the label that task.target shows, "
        "' {label}': different labels would be one; write labels without personal data, or set task.pii to keep"
    )
    plain = rows_of(4, text=f"ask {MAIL}")
    loader(tmp_path)(plain, plain, choices=[" bad", " good"], pii="mask")


def test_masks_in_open_targets_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [*rows_of(2), {"text": "who?", "label": f"ask {MAIL}"}]
    loader(tmp_path)(rows, rows_of(1, text=f"from {MAIL}"), pii="mask")
    (said,) = [line for line in caplog.messages if "hold masks" in line]
    assert said.startswith(f"task.pii: 1 targets hold masks, e.g. {tmp_path / 'train.jsonl'}:3: the model learns to ")
    assert MAIL not in caplog.text


@pytest.mark.parametrize("handling", ["mask", "refuse"])
def test_rows_without_masks_leave_no_copy_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handling: str
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setattr(tables, "LARGE", 0)
    monkeypatch.setattr(tables, "cache_folder", lambda: cache)
    rows = rows_of(4)
    kept = loader(tmp_path)(rows, pii=handling)
    write(tmp_path / "train.jsonl", [*rows, {"text": f"ask {MAIL}", "label": "good"}])
    assert load_unmasked(kept.config).splits["train"][4].prompt == f"ask {MAIL}\n:"
    files = [p for p in cache.rglob("*") if p.is_file()]
    assert any(p.suffix == ".arrow" for p in files), "of the rows that a run reads"
    assert [p for p in files if MAIL.encode() in p.read_bytes()] == []
    if handling == "mask":
        assert load_task(kept.config).splits["train"][4].prompt == "ask <EMAIL_ADDRESS_1>\n:"


def test_metric_data_of_masked_targets_are_those_of_the_masked_rows(tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    file.write_text('{"ask <EMAIL_ADDRESS_1>": {"mentions": [["ask"]]}}', encoding="utf-8")
    rows = [{"text": "who?", "label": f"ask {MAIL}"}]
    settings: dict[str, Any] = {"pii": "mask", "metrics": ["mentions"], "metric_data": str(file)}
    task = loader(tmp_path)(rows, rows, **settings)
    assert load_unmasked(task.config).splits["test"][0].target == f" ask {MAIL}"


def test_masks_are_in_the_fingerprint_of_the_data(tmp_path: Path) -> None:
    rows = [*rows_of(3), {"text": f"ask {MAIL}", "label": "bad"}]
    load = loader(tmp_path)
    kept, masked = load(rows).fingerprint()["train"], load(rows, pii="mask").fingerprint()["train"]
    assert kept.keys() == {"rows", "sha256"}
    assert masked["masked"] == {"EMAIL_ADDRESS": 1}
    assert masked["sha256"] != kept["sha256"]


def test_only_rows_that_are_taken_count(tmp_path: Path) -> None:
    rows = [*rows_of(4), {"text": f"ask {MAIL}", "label": "bad"}]
    assert loader(tmp_path)(rows, pii="mask", max_rows={"train": 4}).masked["train"] == {}


def test_refused_rows_are_named_without_the_value(tmp_path: Path) -> None:
    rows = [*rows_of(3), {"text": f"ask {MAIL}", "label": "bad"}]
    said = refusal(loader(tmp_path), rows, pii="refuse")
    assert said == (
        f'{tmp_path / "train.jsonl"}:4: column "text" holds personal data (EMAIL_ADDRESS), and task.pii is refuse; '
        "take the row out, or set task.pii to mask"
    )
    assert loader(tmp_path)(rows_of(4), pii="refuse").masked == {}


def test_a_column_named_after_somebody_is_an_error_without_the_name(tmp_path: Path) -> None:
    said = refusal(loader(tmp_path), rows_of(2, **{MAIL: "x"}), pii="mask")
    assert said == (
        f"{tmp_path / 'train.jsonl'}:1: the name of column 3 holds personal data (EMAIL_ADDRESS); rename the column"
    )


def test_names_of_a_page_are_masked_and_stay_different(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [MAIL, "billing", MAIL.upper()]
    assert list(privacy.shown_names(names).values()) == ["<EMAIL_ADDRESS_1>", "billing", "<EMAIL_ADDRESS_1> (2)"]
    monkeypatch.setattr(privacy, "find_spec", lambda _: None)
    assert privacy.shown_names(names) == {name: name for name in names}


def test_without_the_packages_one_line_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privacy, "PACKAGES", ("no_such_package",))
    assert refusal(loader(tmp_path), pii="mask") == f"task.pii: {privacy.INSTALL}"
    assert loader(tmp_path)().masked == {}


def test_the_card_of_a_run_says_what_was_masked() -> None:
    def text(handling: str, **masked: dict[str, int]) -> str:
        task = {"prompt": "{text}", "target": " {label}", "pii": handling}
        splits = {name: {"rows": 1, "sha256": "", "masked": found} for name, found in masked.items()}
        settings = {"model": {"name_or_path": "bundled:smollm2-135m-instruct"}, "task": task}
        result = make_result(settings=settings, data={"licence": "yours", "splits": splits})
        result.notes.update(saved="adapter", kind="decoder")
        return card(result)

    said = text("mask", train={"EMAIL_ADDRESS": 2}, test={"EMAIL_ADDRESS": 1, "PHONE_NUMBER": 1})
    assert "\n- personal data, masked in all splits (task.pii): 3 EMAIL_ADDRESS, 1 PHONE_NUMBER\n" in said
    assert "(task.pii): none were found" in text("mask", train={})
    assert "personal data" not in text("keep")


def test_training_cannot_go_on_over_other_masks() -> None:
    def inputs(masked: dict[str, int] | None) -> dict[str, Any]:
        split = {"rows": 3, "sha256": "a", "tokens": "b"} | ({} if masked is None else {"masked": masked})
        base = {"name": "tiny", "weights": "w", "dtype": "float32", "config": {}, "tokenizer": {}}
        return {
            "data": dict.fromkeys(SPLITS, split),
            "schema": "",
            "metric_data": "",
            "metrics": {},
            "base": base,
            "ends": [1],
        }

    one, other = inputs({"EMAIL_ADDRESS": 1}), inputs({"EMAIL_ADDRESS": 2})
    assert changes(one, one) == changes(inputs(None), inputs(None)) == []
    assert changes(one, other)[0] == "train has the same rows, but other personal data are masked"


def test_the_example_tickets_hold_none() -> None:
    tickets = str(ROOT / "data" / "examples" / "tickets.jsonl")
    assert load_task(TaskConfig("{text}", " {queue}", train=tickets, pii="mask")).masked == {
        split: {} for split in SPLITS
    }


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("de-073259038455", False),
        ("see order_073259038455.", False),
        ("photo_073259038455", False),
        ("tel-073259038455", True),
        ("Handy-015112345678", True),
        ("WhatsApp_015112345678", True),
        ("ph-2125551234", True),
        ("home_phone_2125551234", True),
        ("de 073259038455", True),
        ("call de-073259038455 or +49 30 1234567", True),
    ],
)
def test_a_word_with_digits_is_an_identifier_and_no_phone_number(text: str, is_found: bool) -> None:
    assert any(one.kind == "PHONE_NUMBER" for one in privacy.find(text)) == is_found
