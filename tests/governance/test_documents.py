"""The sentences of a record: they state only facts that the run's record shows."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from made_governance import BASE, SIZES, Made, edit, made_rows
from made_tasks import write
from softprompts.data import tables
from softprompts.governance import evidence
from softprompts.governance.record import write_governance
from softprompts.tasks.task import load_task

import pytest

LOSS = "the negative log-likelihood of the target's tokens"
ONCE = "rows were scored once, at the end."
AGAIN = "The {} rows were also scored at the end. They chose {}, so other rows may score less."
WORDINGS: dict[str, Any] = {"chosen": 1, "wordings": [{"prompt": "{text}"}, {"prompt": "Sort {text}"}]}


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def written(made: Made, home: Path) -> dict[str, Any]:
    page = write_governance(made.asked(home))
    return json.loads((page.parent / "governance.json").read_text(encoding="utf-8"))


def known(tree: dict[str, Any], point: str) -> str:
    """Return the sentences of a point of the record in one line."""
    return next(" ".join(p["known"]) for part in tree["parts"].values() for p in part["points"] if p["key"] == point)


@pytest.mark.parametrize(
    ("made_at", "said"),
    [
        ("2026-01-01T00:00:00+00:00", "on 2026-01-01, before the run started"),
        ("2026-01-02T03:03:04+00:00", "on 2026-01-02, before the run started"),
        ("2026-01-02T03:03:35+00:00", "on 2026-01-02, during the run"),
        ("2026-01-02T03:04:06+00:00", "on 2026-01-02, after the run ended"),
        ("2099-01-01T00:00:00+00:00", "on 2099-01-01, after the run ended"),
        ("", "at an unknown time"),
    ],
)
def test_the_time_of_the_checks_is_compared_with_that_of_the_run(made: Made, made_at: str, said: str) -> None:
    home = made.run(cost={"seconds_total": 60.0})  # until 03:04:05
    checked = {"made": made_at, "status": "green", "data": load_task(made.task).fingerprint(), "findings": []}
    (home.parent / "readiness.json").write_text(json.dumps(checked), encoding="utf-8")
    text = known(written(made, home), "data")
    assert f"Checked by recipes/readiness.py {said}: green, 0 of 0 points green." in text


@pytest.mark.parametrize(
    ("split", "trained", "more", "said"),
    [
        ("test", True, {}, f"12 rows of validation chose the step. The test {ONCE}"),
        ("test", False, {}, f"The test {ONCE}"),
        ("test", True, {"sweep": {}}, f"12 rows of validation chose the settings and the step. The test {ONCE}"),
        ("test", False, {"hard": {"wordings": ["{text}"]}}, f"The test {ONCE}"),
        ("validation", False, {}, f"The validation {ONCE}"),
        ("validation", True, {}, f"12 rows of validation chose the step. {AGAIN.format('validation', 'the step')}"),
        (
            "validation",
            False,
            {"hard": {"wordings": ["{text}", "Sort {text}"], "validation_rows": 9}},
            f"9 rows of validation chose the prompt. {AGAIN.format('validation', 'the prompt')}",
        ),
        ("train", True, {}, "The run was trained on them, so other rows may score less."),
    ],
)
def test_rows_that_chose_or_trained_are_not_those_of_a_test(
    made: Made, split: str, trained: bool, more: dict[str, Any], said: str
) -> None:
    home = made.run() if trained else made.run(training={})

    def change(tree: dict[str, Any]) -> None:
        tree["settings"] |= more | {"evaluation": {"split": split}}
        tree["settings"]["training"]["eval_rows"] = 12

    edit(home / "result.json", change)
    (home / "predictions.jsonl").unlink()  # they are those of test
    tree = written(made, home)
    text = known(tree, "testing")
    assert said in text
    assert (ONCE in text) == (ONCE in said)
    where = "In a test it was right in 75.0 of" if split == "test" else f"On the {split} rows it was right in 75.0 of"
    assert any(where in line for line in tree["transparency_note"])


@pytest.mark.parametrize(
    ("below", "noted", "said"),
    [
        (0.8, None, "80.0 %"),  # records of older versions
        (0.8, 0.8, "80.0 %"),
        ("auto", 0.63, "63.0 %"),
        (None, None, None),
    ],
)
def test_the_threshold_of_abstention_is_that_of_the_run(
    made: Made, below: Any, noted: float | None, said: str | None
) -> None:
    home = made.run()

    def change(tree: dict[str, Any]) -> None:
        tree["settings"]["evaluation"]["abstain_below"] = below
        tree["notes"] |= {} if noted is None else {"abstain_below": noted}

    edit(home / "result.json", change)
    tree = written(made, home)
    text = known(tree, "oversight")
    assert text.startswith("If the model cannot be used: sort by hand")
    assert (f"with a probability below {said} counts as left to a person." in text) == (said is not None)
    assert ("must leave it to a person itself" in text) == (said is not None)
    assert ("chose the threshold of abstention." in known(tree, "testing")) == (below == "auto")


@pytest.mark.parametrize(
    ("name", "quantization", "said"),
    [
        (
            BASE,
            "none",
            "SmolLM2-135M-Instruct. The weights were dequantised from 4 bits (bundled:smollm2-135m-instruct). ",
        ),
        ("org/other", "none", "Pre-trained base model of a third party: org/other. "),
        ("org/other", "nf4", "a third party: org/other. The run loaded the weights in 4 bits (nf4). "),
        ("org/other", "int8", "a third party: org/other. The run loaded the weights in 8 bits (int8). "),
        ("runs/full/model", "none", "Base model: the model in runs/full/model. "),  # need not be there any more
        ("here", "none", "Base model: the model in here. "),
    ],
)
@pytest.mark.parametrize("method", ["prompt_tuning", "full_finetuning"])
def test_the_base_model_is_that_of_the_run(
    made: Made, monkeypatch: pytest.MonkeyPatch, name: str, quantization: str, said: str, method: str
) -> None:
    home = made.run(model={"name_or_path": name, "quantization": quantization}, recipe=method)
    monkeypatch.chdir(made.folder)
    (made.folder / "here").mkdir()
    text = known(written(made, home), "development")
    did = "trained" if method == "full_finetuning" else "did not change"
    assert f"{said}The run {did} the weights." in text
    assert ("third party" in text) == (name in (BASE, "org/other"))
    card = (home / "governance" / "model_card.md").read_text(encoding="utf-8")
    assert f"{said}The run {did} the weights." in card
    assert ("\nbase_model:" in card) == (name in (BASE, "org/other")), "on the Hub, a path would be an id"


@pytest.mark.parametrize(
    ("shots", "notes", "said"),
    [
        (0, WORDINGS, "Inputs have this form: 'Sort {text}'. Outputs: ' {label}'."),
        (2, WORDINGS, "Inputs have this form: 'Sort {text}'. Outputs: ' {label}'. Few-shot examples from train"),
        (0, {}, r"Inputs have this form: '{text}\nQueue:'. Outputs: ' {label}'."),  # a record without notes
    ],
)
def test_the_prompt_of_a_hard_prompt_is_the_one_that_it_chose(
    made: Made, shots: int, notes: dict[str, Any], said: str
) -> None:
    home = made.run(training={}, recipe="hard_prompt", notes=notes)
    wordings = [wording["prompt"] for wording in WORDINGS["wordings"]]
    edit(home / "result.json", lambda tree: tree["settings"].update(hard={"wordings": wordings, "shots": shots}))
    text = known(written(made, home), "instructions")
    assert text.startswith(said)
    assert text.endswith("input: 2.") == bool(shots)


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({}, f"Training minimises {LOSS}. Validation chose"),
        ({"teacher": "runs/other", "teacher_weight": 0.0}, f"Training minimises {LOSS}. Validation chose"),
        (
            {"teacher": "runs/other", "teacher_weight": 0.25, "teacher_temperature": 2.0},
            "Training minimises 0.75 x NLL + 1 x KL, for each of the target's tokens.",
        ),
        ({"teacher": "runs/other", "teacher_temperature": 2.0}, "from the teacher's, both at temperature 2."),
        ({"teacher": "runs/other"}, "The teacher is the model in runs/other. Validation chose"),
        ({"teacher_context": "shots:8", "teacher_weight": 1}, "Training minimises 1 x KL, for each of the target's"),
        ({"teacher_context": "shots:8"}, "The teacher is the base model, which also reads training.teacher_context."),
    ],
)
def test_the_loss_is_that_of_the_run(made: Made, training: dict[str, Any], said: str) -> None:
    home = made.run()
    edit(home / "result.json", lambda tree: tree["settings"]["training"].update(training))
    write_governance(made.asked(home))
    card = (home / "governance" / "model_card.md").read_text(encoding="utf-8")
    assert said in card.replace("\n- ", " ")


def test_the_loss_of_an_encoder_is_that_of_its_classifier(made: Made) -> None:
    home = made.run(notes={"saved": "adapter", "kind": "encoder", "outputs": 2})
    text = known(written(made, home), "design")
    assert text.startswith("Training minimises the cross-entropy of the right choice, over the outputs of the ")
    assert LOSS not in text


@pytest.mark.parametrize("long_rows", ["error", "cut_prompt"])
def test_the_longest_rows_are_no_limit_of_later_inputs(made: Made, long_rows: str) -> None:
    home = made.run()
    edit(home / "result.json", lambda tree: tree["settings"]["task"].update(max_length=2048, long_rows=long_rows))
    text = known(written(made, home), "limits")
    assert "Rows of train, validation and test had at most 2,048 tokens each, with their answers." in text
    assert ("The prompts of longer rows were cut from the left." in text) == (long_rows == "cut_prompt")


def test_the_record_of_processing_has_the_columns_of_every_row_and_split(made: Made) -> None:
    rows = {split: made_rows(split) for split in SIZES}
    rows["train"][-1]["phone"] = "555"
    rows["test"][3] |= {f"column_{n}": n for n in range(12)}
    for split, file in made.files.items():
        write(Path(file), rows[split])
    text = known(written(made, made.run()), "subjects")
    columns = ", ".join(f"column_{n}" for n in range(12))
    assert f"Columns of the rows: text, label, language, customer, urgent, phone, {columns}." in text


def test_the_cache_of_large_data_is_named_for_erasure(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = made.run()
    assert "HF_DATASETS_CACHE" not in known(written(made, home), "erasure")
    monkeypatch.setattr(tables, "LARGE", 0)
    monkeypatch.setattr(tables, "cache_folder", lambda: tmp_path / "cache")
    assert "a copy of the rows in its cache, in the folder softprompts of HF_DATASETS_CACHE" in known(
        written(made, home), "erasure"
    )


UNTRAINED = {"total": 100, "trainable": 0, "saved": 0}


def test_an_ensemble_saves_the_mean_and_scores_the_rows_by_each_adapter(made: Made) -> None:
    changes: dict[str, Any] = {"recipe": "ensemble", "training": {}, "parameters": UNTRAINED}
    home = made.run(notes={"members": [], "soup": {"loss": 1.0}}, **changes)
    tree = written(made, home)
    assert "contains adapter/, the mean of the adapters as a stock PEFT adapter" in known(tree, "forms")
    said = "The test rows were scored at the end, by the vote and by each of its adapters"
    assert f"{said}, and by their mean." in known(tree, "testing")
    assert ONCE not in known(tree, "testing")
    alone = written(made, made.run("alone", notes={"members": []}, **changes))
    assert known(alone, "forms") == "The run saved no model."
    assert f"{said}." in known(alone, "testing")


def test_a_run_without_training_names_no_library_and_trained_with_nothing(made: Made) -> None:
    home = made.run(recipe="evaluate", training={}, parameters=UNTRAINED, notes={"split": "test"})
    tree = written(made, home)
    assert "The run used torch 2.13.0." in known(tree, "updates")
    head = (home / "governance" / "model_card.md").read_text(encoding="utf-8").split("---")[1]
    assert "library_name" not in head
    assert "pipeline_tag" not in head
    assert "type: text-classification" in head


def test_each_task_has_an_adapter(made: Made) -> None:
    home = made.run(notes={"saved": "adapter", "kind": "decoder", "tasks": {"one": {}, "two": {}}})
    assert "a stock PEFT adapter for each task, without the base model" in known(written(made, home), "forms")


def test_4_bit_parameters_are_counted_by_two(made: Made) -> None:
    text = "Two weights of 4 bits count as one parameter in this number."
    packed = made.run("packed", model={"name_or_path": "org/other", "quantization": "nf4"})
    assert text in known(written(made, packed), "architecture")
    assert text not in known(written(made, made.run()), "architecture")


@pytest.mark.parametrize("processes", [1, 4])
def test_what_one_process_measured_is_not_that_of_all(made: Made, processes: int) -> None:
    environment = {"commit": "0123abc", "hardware": {"cores": 2}, "processes": processes}
    cost = {"seconds_training": 9.0, "peak_memory_gib": 2.0, "energy_kwh": 0.5}
    tree = written(made, made.run(environment=environment, cost=cost))
    first = " of the first process" if processes > 1 else ""
    assert f"9 s of training, 2.0 GiB of memory{first}, 0.5 kWh{first}." in known(tree, "architecture")
    assert ("It had 4 processes; this is the machine of the first." in known(tree, "target_hardware")) == bool(first)


def test_the_seconds_of_a_sweep_are_not_those_of_one_candidate(made: Made) -> None:
    home = made.run(cost={"seconds_training": 9.0}, notes={"candidates": []})
    said = "9 s of training of the kept candidate and of those that trained together with it, energy"
    assert said in known(written(made, home), "architecture")


def test_data_of_the_hub_are_no_files(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    home = made.run()
    assert "The Croissant file describes the files. The files still have" in known(written(made, home), "data")
    read = evidence.open_sources
    monkeypatch.setattr(
        evidence, "open_sources", lambda config: {name: replace(s, files=()) for name, s in read(config).items()}
    )
    text = known(written(made, home), "data")
    assert "The data still have the rows of the run" in text
    assert "files" not in text


def test_predictions_of_a_hard_prompt_also_hold_its_examples(made: Made) -> None:
    home = made.run(training={}, recipe="hard_prompt", notes=WORDINGS)
    edit(home / "result.json", lambda tree: tree["settings"].update(hard={"shots": 2}))
    assert known(written(made, home), "erasure").endswith("the texts of the few-shot examples from train: 2.")


def test_a_smaller_learning_rate_after_a_loss_that_is_not_finite_is_stated(made: Made) -> None:
    back = {"step": 7, "to": 5, "factor": 0.5}
    home = made.run(training={"step": 10, "best_step": 10, "tokens": 1000, "rollbacks": [back]})
    text = known(written(made, home), "development")
    assert "The loss of step 7 was not finite. Training went back to step 5, with 0.5 times the learning rate." in text


@pytest.mark.parametrize(
    ("recipe", "settings", "said"),
    [
        ("evaluate", {"adapter": {"path": "runs/lora"}}, "The scores are those of the adapter in runs/lora."),
        ("evaluate", {"adapter": {"path": None}}, "The scores are those of the base model alone."),
        ("ensemble", {"ensemble": {"adapters": ["runs/a", "runs/b"]}}, "the vote of these adapters: runs/a, runs/b."),
    ],
)
def test_a_run_that_trains_nothing_names_what_it_scored(
    made: Made, recipe: str, settings: dict[str, Any], said: str
) -> None:
    home = made.run(recipe=recipe, training={}, parameters=UNTRAINED, notes={})
    edit(home / "result.json", lambda tree: tree["settings"].update(settings))
    assert said in known(written(made, home), "development")


def test_the_baseline_of_readiness_has_no_longest_row(made: Made) -> None:
    home = made.run()
    edit(home / "result.json", lambda tree: tree["settings"]["task"].update(max_length=sys.maxsize))
    assert "had at most" not in known(written(made, home), "limits")
