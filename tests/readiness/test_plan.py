"""readiness.yaml and the config of a recipe: their values, and messages about faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers import ROOT
from made_readiness import PLAN
from softprompts.config.methods import CPTConfig
from softprompts.errors import UserError
from softprompts.methods.catalog import METHODS
from softprompts.readiness.findings import Finding
from softprompts.readiness.plan import accept, plan_findings, read_plan, rows_digest
from softprompts.readiness.settings import read_recipe

import pytest
import yaml


def read(folder: Path, text: str | None = None, **changes: Any) -> Any:
    path = folder / "readiness.yaml"
    path.write_text(yaml.safe_dump(PLAN | changes) if text is None else text, encoding="utf-8")
    return read_plan(str(path))


def refusal(folder: Path, text: str | None = None, **changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(folder, text, **changes)
    return str(caught.value).removeprefix(f"{folder / 'readiness.yaml'}: ")


def test_the_shipped_plan_reads() -> None:
    plan = read_plan(str(ROOT / "configs/own_data/readiness.yaml"))
    assert (plan.metric, plan.target, plan.today, plan.legal_basis) == ("accuracy", 0.9, 0.6, "no personal data")
    assert plan.time_column is None


def test_a_red_point_that_the_owner_accepts_is_amber_with_the_reason(tmp_path: Path) -> None:
    red = Finding("near_duplicates", "Near", "red", "12 rows.", "Split anew.")
    green = Finding("time", "Time", "green", "")
    reason = "The rows in use are as alike."
    given = {"reason": reason, "rows": "rows-1"}
    one, other = accept(read(tmp_path, accepted={"near_duplicates": given, "time": given}), [red, green], "rows-1")
    assert (one.status, one.accepted, one.accepted_status, one.remedy) == ("amber", reason, "red", "Split anew.")
    assert other == green
    assert accept(read(tmp_path), [red], "rows-1") == [red]
    with pytest.raises(UserError, match=r'accepted: no point "near_duplicate" \(did you mean "near_duplicates"'):
        accept(read(tmp_path, accepted={"near_duplicate": given}), [red], "rows-1")


@pytest.mark.parametrize(
    ("given", "which"),
    [({"reason": "A demo.", "rows": "rows-1"}, "other rows"), ("A demo.", "no particular rows")],
)
def test_a_reason_counts_only_for_the_rows_that_it_was_given_for(tmp_path: Path, given: Any, which: str) -> None:
    red = Finding("near_duplicates", "Near", "red", "12 rows.", "Split anew.")
    (found,) = accept(read(tmp_path, accepted={"near_duplicates": given}), [red], "rows-2")
    assert (found.status, found.accepted) == ("red", "")
    assert f"was given for {which}. If it holds for these, write rows: rows-2 below accepted." in found.remedy


def test_the_name_of_rows_changes_with_each_split() -> None:
    splits = {name: {"sha256": name} for name in ("train", "validation", "test")}
    found = {rows_digest(splits), *(rows_digest(splits | {name: {"sha256": "x"}}) for name in splits)}
    assert len(found) == 4
    assert all(name.startswith("rows-") for name in found)


@pytest.mark.parametrize("key", ["secrets", "personal_data"])
def test_secrets_and_personal_data_cannot_be_accepted(tmp_path: Path, key: str) -> None:
    said = refusal(tmp_path, accepted={key: "We know it."})
    assert said.startswith(f"accepted.{key}: no reason settles this point; remove it, ")


def test_a_wrong_field_of_an_acceptance_is_one_line(tmp_path: Path) -> None:
    given = {"reason": "A demo.", "row": "rows-1"}
    said = 'unknown field "accepted.time.row" (did you mean "accepted.time.rows"?)'
    assert refusal(tmp_path, accepted={"time": given}) == said
    assert refusal(tmp_path, accepted={"time": given | {"rows": 7}}).startswith('unknown field "accepted.time.row"')
    assert refusal(tmp_path, accepted={"time": {"reason": "A demo.", "rows": 7}}) == (
        "accepted.time.rows: expected text, found 7; quote it"
    )


@pytest.mark.parametrize("reason", ["", "TODO", 3, None])
def test_an_acceptance_without_a_reason_is_refused(tmp_path: Path, reason: Any) -> None:
    said = refusal(tmp_path, accepted={"near_duplicates": reason})
    assert said.startswith("accepted.near_duplicates: expected a reason, found ")
    assert refusal(tmp_path, accepted=["near_duplicates"]).startswith("accepted: expected points with reasons, found ")


def test_all_missing_fields_are_in_one_line(tmp_path: Path) -> None:
    assert refusal(tmp_path, "goal: ''\nkpi: {metric: accuracy}\nowner: Ada\n") == (
        "missing or empty: goal, data_owner, legal_basis, intended_users, cost_of_error, fallback, reviewers, "
        "kpi.target, kpi.measured"
    )
    assert refusal(tmp_path, "owner: Ada\n").count(",") == 9
    assert refusal(tmp_path, reviewers=[]) == "missing or empty: reviewers"


@pytest.mark.parametrize("text", ["TODO", "todo: ask legal", "tbd.", "...", "?", "-", "<TODO>", "FIXME"])
def test_a_placeholder_is_no_answer(tmp_path: Path, text: str) -> None:
    assert refusal(tmp_path, owner=text, reviewers=["Grace", text]) == "missing or empty: owner, reviewers"


@pytest.mark.parametrize("text", ["none", "N/A", "na", "Nobody", "no one", "unknown", "n.a.", "<unknown>"])
def test_a_word_that_states_nothing_is_no_answer(tmp_path: Path, text: str) -> None:
    said = f"{text} is no answer; write a sentence, or a person's role"
    assert refusal(tmp_path, owner=text) == f"owner: {said}"
    assert refusal(tmp_path, reviewers=["Grace", text]).startswith("reviewers: ")
    assert refusal(tmp_path, kpi=PLAN["kpi"] | {"measured": text}) == f"kpi.measured: {said}"
    assert refusal(tmp_path, accepted={"time": text}).startswith("accepted.time: expected a reason, found ")
    assert read(tmp_path, cost_of_error=f"{text} yet: a person looks").cost_of_error


def test_none_as_a_legal_basis_names_the_valid_ones(tmp_path: Path) -> None:
    assert refusal(tmp_path, legal_basis="none").startswith('legal_basis: unknown basis "none"')


@pytest.mark.parametrize("text", ["Todo el equipo de soporte", "TBC Bank, Tbilisi", "XXX Ltd", "A. Toda"])
def test_an_answer_may_begin_like_a_placeholder(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, owner=text).owner == text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ownr": "x"}, 'unknown field "ownr" (did you mean "owner"?)'),
        ({"kpi": PLAN["kpi"] | {"traget": 1}}, 'unknown field "kpi.traget" (did you mean "kpi.target"?)'),
        ({"kpi": PLAN["kpi"] | {"target": 90}}, "kpi.target: expected a number above 0 to 1, found 90; 90 % is 0.9"),
        ({"kpi": PLAN["kpi"] | {"target": 0}}, "kpi.target: expected a number above 0 to 1, found 0; 90 % is 0.9"),
        ({"kpi": PLAN["kpi"] | {"today": True}}, "kpi.today: expected a number from 0 to 1, found True; 90 % is 0.9"),
        ({"kpi": "accuracy"}, "kpi: expected the fields metric, target, measured, found accuracy"),
        ({"owner": 7}, "owner: expected text, found 7; quote it"),
        ({"reviewers": "Grace"}, "reviewers: expected a list of texts, found Grace"),
        ({"legal_basis": "consnt"}, 'legal_basis: unknown basis "consnt" (did you mean "consent"?)'),
    ],
)
def test_a_wrong_field_is_one_line(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    assert refusal(tmp_path, **changes) == said


def test_a_file_that_is_none_or_no_mapping_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.yaml: no such file"):
        read_plan(str(tmp_path / "absent.yaml"))
    assert refusal(tmp_path, "") == "expected fields such as goal and kpi, found nothing"
    assert refusal(tmp_path, "- a\n") == "expected fields such as goal and kpi, found none"


def test_an_owner_who_reviews_alone_is_amber(tmp_path: Path) -> None:
    (other,) = plan_findings(read(tmp_path))
    assert other.status == "green"
    for owner, reviewer in (("Ada", "ada"), ("José  Roe ", "Jose\u0301 Roe")):
        (alone,) = plan_findings(read(tmp_path, owner=owner, reviewers=[reviewer]))
        assert alone.status == "amber"


CONFIGS = [p for p in sorted((ROOT / "configs").glob("*/*.yaml")) if p.stem in METHODS.keys() | {"sweep"}]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_shipped_config_that_trains_reads(config: Path) -> None:
    found = read_recipe(str(config))
    tree = yaml.safe_load(config.read_text(encoding="utf-8"))
    assert found.task.prompt == tree["task"]["prompt"]
    assert found.run.output_dir == tree["run"]["output_dir"]
    assert found.method == (tree["sweep"].get("method", "prompt_tuning") if "sweep" in tree else config.stem)
    assert found.training.steps == tree.get("training", {}).get("steps", 300)
    assert (found.virtual_tokens > 0) == (METHODS[found.method].what == "soft")


def test_the_method_of_a_config_of_another_name_is_that_of_its_section(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    common = {"task": {"prompt": "{a}", "target": " {b}", "train": "x"}, "run": {"output_dir": "runs/x"}}
    for section, method in (("lora", "lora"), ("prefix", "prefix_tuning"), (None, "full_finetuning")):
        path.write_text(yaml.safe_dump(common | ({section: {}} if section else {})), encoding="utf-8")
        assert read_recipe(str(path)).method == method
    path.write_text(yaml.safe_dump(common | {"sweep": {"grid": {"run.seed": [0, 1, 2], "training.steps": [1, 2]}}}))
    assert (read_recipe(str(path)).method, read_recipe(str(path)).candidates) == ("prompt_tuning", 6)


def test_a_key_with_a_dot_is_as_good_as_its_section(tmp_path: Path) -> None:
    path = tmp_path / "prompt_tuning.yaml"
    tree = {"task": {"prompt": "{a}", "target": " {b}"}, "run": {"output_dir": "x"}, "prompt.num_virtual_tokens": 70}
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    assert read_recipe(str(path)).virtual_tokens == 70


def test_a_sweep_needs_room_for_its_largest_candidate(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    tree: dict[str, Any] = {"task": {"prompt": "{a}", "target": " {b}"}, "run": {"output_dir": "x"}}
    tree["sweep"] = {"grid": {"prompt.num_virtual_tokens": [10, 100, 50]}}
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    assert read_recipe(str(path)).virtual_tokens == 100
    tree["sweep"] = {"method": "cpt", "grid": {"cpt.demonstrations": [4, 32]}}
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    found = read_recipe(str(path))
    assert (found.virtual_tokens, found.demonstrations) == (0, CPTConfig(demonstrations=32))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"context": {"demonstrations": 1}},
            "context.demonstrations: expected 2 or more, found 1",
        ),
        ({"prompt": {"num_virtul_tokens": 5}}, 'unknown key "prompt.num_virtul_tokens" (did you mean'),
        ({"task": {"prompt": "{a}", "target": " {b}", "max_length": "long"}}, "task.max_length: expected whole number"),
        ({"sweep": {"grid": {}, "method": "lro"}}, 'sweep.method: unknown method "lro" (did you mean "lora"?)'),
        ({"sweep": {"grid": {"run.seed": 3}}}, "sweep.grid: run.seed: expected a list of values, found 3"),
        ({"sweep": {"grid": {"run.seed": "1, 2"}}}, "sweep.grid: run.seed: expected a list of values, found '1, 2'"),
        (
            {"prompt": {"num_virtual_tokens": "20"}},
            "prompt.num_virtual_tokens: expected a whole number above 0, found '20'",
        ),
        (
            {"prompt": {"num_virtual_tokens": None}},
            "prompt.num_virtual_tokens: expected a whole number above 0, found None",
        ),
    ],
)
def test_a_wrong_config_is_one_line(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = tmp_path / "prompt_tuning.yaml"
    if "context" in changes:
        path = tmp_path / "context_tuning.yaml"
    tree = {"task": {"prompt": "{a}", "target": " {b}"}, "run": {"output_dir": "runs/x"}} | changes
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_recipe(str(path))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
