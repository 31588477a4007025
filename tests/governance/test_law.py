"""law.yaml: every fact has a source and dates, every question is asked once, and every name in it exists."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

from softprompts.errors import UserError
from softprompts.governance.documents import FACTS
from softprompts.governance.law import empty_answers, read_answers, read_law

import pytest
import yaml

LAW = read_law()
OFFICIAL = ("https://eur-lex.europa.eu/eli/reg/", "https://digital-strategy.ec.europa.eu/", "https://arxiv.org/abs/")


def test_every_source_is_official_and_says_what_was_read_of_it() -> None:
    for key, source in LAW.sources.items():
        assert source.url.startswith((*OFFICIAL, "https://docs.mlcommons.org/")), key
        assert date.fromisoformat(source.published) <= date.fromisoformat(source.checked)
        assert source.seen in ("official", "copy", "summary", "not seen")
        assert bool(source.seen_at) == (source.seen != "not seen"), key


def test_every_fact_names_a_source_that_exists() -> None:
    named = {part.source for part in LAW.parts.values()} | {t.source for t in LAW.thresholds.values()}
    named |= {base.source for base in LAW.bases.values()} | {s for duty in LAW.duties for s in duty.sources}
    assert named <= LAW.sources.keys()
    assert LAW.sources.keys() - named == {"flop_rule"}, "named in the notes of the compute"


def test_the_dates_of_the_duties() -> None:
    dates = {duty.key: duty.applies_from for duty in LAW.duties}
    assert dates["interaction"] == dates["marking"] == dates["public_text"] == "2026-08-02"
    assert dates["high_risk_annex_iii"] == "2027-12-02"
    assert dates["high_risk_annex_i"] == "2028-08-02"
    assert all(date.fromisoformat(day) for day in dates.values())


def test_the_duty_to_keep_a_record_names_its_exemption() -> None:
    (duty,) = (duty for duty in LAW.duties if duty.key == "processing_record")
    assert "unless Article 30(5) exempts" in duty.title, "beside the verdict of the page"
    assert "fewer than 250 persons, unless the processing is likely to result in a risk" in duty.reference


def test_what_a_duty_depends_on_is_asked_with_these_choices() -> None:
    for duty in LAW.duties:
        for key, wanted in duty.concerns.items():
            assert set(wanted) < set(LAW.points[key].choices), duty.key


def test_questions_are_asked_once_and_known_facts_exist() -> None:
    points = [point for part in LAW.parts.values() for point in part.points]
    assert len(points) == len(LAW.points)
    assert {name for point in points for name in point.known} <= FACTS.keys()
    assert all(point.question.endswith(("?", ")")) for point in points)
    technical = [point.reference for point in LAW.parts["technical"].points]
    assert [r.partition(";")[0] for r in technical] == [
        *(f"Annex IV, 1({letter})" for letter in "abcdefgh"),
        *(f"Annex IV, 2({letter})" for letter in "abcdefgh"),
        *(f"Annex IV, {number}" for number in range(3, 10)),
    ]
    processing = [point.reference for point in LAW.parts["processing"].points]
    assert [r.partition(",")[0] for r in processing if r.startswith("Article 30")] == [
        f"Article 30(1)({letter})" for letter in "abcdefg"
    ]


def test_the_file_for_answers_has_every_question_and_no_answer(tmp_path: Path) -> None:
    file = tmp_path / "answers.yaml"
    file.write_text(empty_answers(LAW), encoding="utf-8")
    tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert tree == dict.fromkeys(LAW.points)
    assert read_answers(file, LAW) == {}
    assert max(map(len, file.read_text(encoding="utf-8").splitlines())) <= 110


def answers(folder: Path, text: str) -> dict[str, str]:
    file = folder / "answers.yaml"
    file.write_text(text, encoding="utf-8")
    return read_answers(file, LAW)


def test_answers_are_read_as_a_person_writes_them(tmp_path: Path) -> None:
    found = answers(
        tmp_path, "high_risk: no\ninteraction: |\n  One.\n  Two.\ndataset_published: 2026-01-31\ndesign: ''\n"
    )
    assert found == {"high_risk": "no", "interaction": "One.\nTwo.", "dataset_published": "2026-01-31"}
    assert answers(tmp_path, "") == {}
    assert read_answers(tmp_path / "none.yaml", LAW) == {}


def test_a_placeholder_leaves_the_question_open(tmp_path: Path) -> None:
    assert answers(tmp_path, "provider: TODO\nhigh_risk: tbd\ndesign: '...'\n") == {}


def test_a_short_form_of_a_date_is_written_in_full(tmp_path: Path) -> None:
    assert answers(tmp_path, "dataset_published: '20260802'") == {"dataset_published": "2026-08-02"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("providr: me", 'unknown question "providr" (did you mean "provider"?)'),
        ("high_risk: maybe", 'high_risk: unknown answer "maybe" (valid: no, Annex III, Annex I)'),
        ("provider: 7", "provider: expected text, found 7; quote it"),
        ("provider: [me]", "provider: expected text, found ['me']; quote it"),
        ("- provider", "expected answers by question, found ['provider']"),
        ("dataset_published: soon", "dataset_published: expected a date such as 2026-08-02, found soon"),
        ("dataset_url: here", "dataset_url: expected an address that begins with https://, found here"),
        ("model_licence: Apache License", "model_licence: expected the Hub's name for a licence, such as apache-2.0"),
        ("provider: 'a", ":1: not valid YAML"),
        ("provider: a\nprovider: b", "appears twice"),
    ],
)
def test_a_wrong_answer_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        answers(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "answers.yaml"))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_facts_are_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from softprompts.governance import law

    tree: dict[str, Any] = yaml.safe_load(law.FILE.read_text(encoding="utf-8"))
    tree["thresholds"]["modifier_share"]["value"] = 0.5
    other = tmp_path / "law.yaml"
    other.write_text(yaml.safe_dump(tree), encoding="utf-8")
    monkeypatch.setattr(law, "FILE", other)
    law.read_law.cache_clear()
    assert law.read_law().thresholds["modifier_share"].value == 0.5
    law.read_law.cache_clear()
