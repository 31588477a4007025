"""`recipes/forget.py`: the same run without some rows, its proof, the check of the proof, and errors of one line."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import ROOT, cli_in_process, read_result, run_recipe
from made_forgetting import NEARLY, SECRET, SHOUTED, SIZES, finish_run, people_config, write_people
from softprompts.config.methods import ContextConfig
from softprompts.data import tables
from softprompts.data.without import fingerprint, text_of
from softprompts.methods.soft_prompts.context_tuning import demonstrations
from softprompts.runs.folders import leaves
from softprompts.tasks.task import load_task

import pytest
from safetensors.torch import load_file

REMOVED = {"train": ["train.jsonl:6", "train.jsonl:10"], "validation": ["validation.jsonl:3"], "test": []}
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a recipe import the one beside it, as if it was run from its folder."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "recipes")])


@pytest.fixture(scope="module")
def people(once: Any) -> Path:
    return once("people", write_people)


@pytest.fixture(scope="module")
def finished(once: Any, tiny_model: Path, people: Path) -> Callable[..., Path]:
    """Return the folder of a finished run of a recipe on the people task."""

    def run(recipe: str, **flags: Any) -> Path:
        name = f"people_{recipe}" + "".join(f"_{key}_{value}" for key, value in flags.items()).replace("/", "_")
        return once(name, lambda folder: finish_run(recipe, tiny_model, people, folder, **flags))

    return run


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a file that names the secret's row."""
    file = tmp_path / "rows.txt"
    file.write_text("train.jsonl:6\n", encoding="utf-8")
    return file


def command(run: Path, output: Path, rows: Path, *more: str) -> list[str]:
    flags = ["--forget.run", str(run), "--forget.rows", str(rows), "--forget.output_dir", str(output)]
    return ["recipes/forget.py", *flags, *more]


def check(folder: Path, capture: Capture) -> tuple[int, str, list[str]]:
    return cli_in_process(["recipes/forget.py", "--forget.check", str(folder)], capture)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def prints(people: Path, split: str, *lines: int) -> list[str]:
    text = text_of("{text}", "{label}")
    rows = (people / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [fingerprint(text(json.loads(rows[line - 1]))) for line in lines]


@pytest.fixture
def forgotten(finished: Callable[..., Path], place: Path, tmp_path: Path, capfd: Capture) -> Path:
    """Return the folder of a run of LoRA that has forgotten the secret's row, and its copies."""
    code, _, errors = cli_in_process(command(finished("lora"), tmp_path / "new", place), capfd)
    assert code == 0, errors
    return tmp_path / "new"


def test_a_run_without_the_rows_and_its_proof(
    finished: Callable[..., Path], people: Path, place: Path, tmp_path: Path, capfd: Capture
) -> None:
    old, new = finished("lora"), tmp_path / "new"
    before = digests(old)
    code, said, _ = cli_in_process(command(old, new, place), capfd)
    assert code == 0
    assert digests(old) == before, "the old folder stays as it is"
    record, results = read_result(new, "forgotten.json"), [read_result(folder) for folder in (old, new)]

    wanted = sorted({*prints(people, "train", 6, 10), *prints(people, "validation", 3)})
    assert record["fingerprints"] == wanted
    assert len(wanted) == 2, "the shouted row has the fingerprint of the named one"
    assert [(row["split"], Path(row["place"]).name) for row in record["forgotten"]] == [
        (split, name) for split, names in REMOVED.items() for name in names
    ]
    assert [Path(row["like"]).name for row in record["forgotten"][1:]] == ["train.jsonl:6"] * 2

    assert record["data"] == {"before": results[0]["data"]["splits"], "after": results[1]["data"]["splits"]}
    for split, names in REMOVED.items():
        after = record["data"]["after"][split]
        assert after["rows"] == SIZES[split] - len(names)
        assert after["without"]["rows"] == len(names)
    assert record["proof"] == {"rows_checked": sum(SIZES.values()) - 3, "with_a_fingerprint": 0, "nearly_the_same": 0}
    assert record["steps"] == {"before": 4, "after": 4}
    assert record["scores"]["rows"] == 16
    assert record["scores"]["before"]["accuracy"] == pytest.approx(results[0]["metrics"]["accuracy"]["value"])
    assert record["scores"]["after"]["accuracy"] == pytest.approx(results[1]["metrics"]["accuracy"]["value"])
    assert record["old_folder"]["path"] == str(old)
    assert "Delete its folder" in record["old_folder"]["advice"]
    assert f"{old} still exists. The old run still knows the rows." in said
    for side, folder in (("before", old), ("after", new)):
        sums = {f"adapter/{name}": digest for name, digest in digests(folder / "adapter").items()}
        weights = {name: digest for name, digest in sums.items() if name.endswith(".safetensors")}
        assert record["adapters"][side] == weights != {}
    assert record["adapters"]["before"] != record["adapters"]["after"]


def test_the_card_says_how_many_rows_were_left_out(finished: Callable[..., Path], forgotten: Path) -> None:
    line = "- rows left out (task.without): 2 of train, 1 of validation, 0 of test\n"
    assert line in (forgotten / "README.md").read_text(encoding="utf-8")
    assert "left out" not in (finished("lora") / "README.md").read_text(encoding="utf-8")


def test_without_the_old_predictions_no_scores_are_compared(
    finished: Callable[..., Path], place: Path, tmp_path: Path, capfd: Capture
) -> None:
    old = tmp_path / "old"
    shutil.copytree(finished("lora"), old)
    (old / "predictions.jsonl").unlink()
    code, said, _ = cli_in_process(command(old, tmp_path / "new", place), capfd)
    assert code == 0
    assert "scores: not compared, because one of the runs has no predictions.jsonl of these rows" in said
    assert read_result(tmp_path / "new", "forgotten.json")["scores"] is None


def test_several_processes_are_refused(
    finished: Callable[..., Path], place: Path, tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, errors = cli_in_process(command(finished("lora"), tmp_path / "new", place), capfd)
    assert (code, len(errors)) == (2, 1)
    assert errors[0].startswith("error: launch: recipes/forget.py runs in one process")


def test_the_new_run_has_the_settings_of_the_old_one(finished: Callable[..., Path], forgotten: Path) -> None:
    old, new = (dict(leaves(read_result(folder, "config.json"))) for folder in (finished("lora"), forgotten))
    changed = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
    assert changed == {"run.output_dir", "task.without"}


def test_no_file_of_the_new_run_has_a_forgotten_text(finished: Callable[..., Path], forgotten: Path) -> None:
    texts = [text.encode() for text in (SECRET, NEARLY, SHOUTED)]
    files = [p for p in forgotten.rglob("*") if p.is_file()]
    assert any(p.name == "forgotten.json" for p in files)
    assert [p for p in files for text in texts if text in p.read_bytes()] == []


def test_a_forgotten_test_row_is_not_scored(finished: Callable[..., Path], tmp_path: Path, capfd: Capture) -> None:
    new = tmp_path / "new"
    more = ["--forget.where", "{author: [u1]}"]
    words = ["recipes/forget.py", "--forget.run", str(finished("lora")), "--forget.output_dir", str(new), *more]
    code, said, _ = cli_in_process(words, capfd)
    assert code == 0
    record = read_result(new, "forgotten.json")
    assert record["scores"]["rows"] == 15
    assert read_result(new)["data"]["splits"]["test"]["rows"] == 15
    assert "accuracy on 15 common rows: " in said
    places = [json.loads(line)["place"] for line in (new / "predictions.jsonl").read_text().splitlines()]
    assert not any(place.endswith("test.jsonl:5") for place in places)


def test_the_training_is_that_of_the_recipe_with_one_more_setting(
    tiny_model: Path, people: Path, forgotten: Path, tmp_path: Path
) -> None:
    finish_run("lora", tiny_model, people, tmp_path / "own", **{"task.without": forgotten / "without.txt"})
    own, theirs = (load_file(f / "adapter" / "adapter_model.safetensors") for f in (tmp_path / "own", forgotten))
    assert own.keys() == theirs.keys()
    assert all((own[name] == theirs[name]).all() for name in own)


def test_a_drawn_example_is_forgotten_as_well(
    finished: Callable[..., Path], people: Path, tmp_path: Path, capfd: Capture
) -> None:
    flags = {"context.demonstrations": 3, "context.token_dropout": 0.0}
    old, new, rows = finished("context_tuning", **flags), tmp_path / "new", tmp_path / "rows.txt"
    drawn = demonstrations(load_task(people_config(people)), ContextConfig(demonstrations=3), 0).splits["train"]
    rows.write_text(drawn[0].place, encoding="utf-8")
    code, _, errors = cli_in_process(command(old, new, rows), capfd)
    assert code == 0, errors
    without = people_config(people, without=str(new / "without.txt"))
    now = demonstrations(load_task(without), ContextConfig(demonstrations=3), 0)
    assert drawn[0].place not in [row.place for row in now.splits["train"]]
    recorded = read_result(new)["data"]["splits"]["train"]
    assert recorded["sha256"] == now.fingerprint()["train"]["sha256"]
    assert check(new, capfd)[0] == 0


def test_what_was_forgotten_before_stays_forgotten(forgotten: Path, tmp_path: Path, capfd: Capture) -> None:
    rows, again = tmp_path / "more.txt", tmp_path / "again"
    rows.write_text("test.jsonl:2\n", encoding="utf-8")
    code, _, errors = cli_in_process(command(forgotten, again, rows), capfd)
    assert code == 0, errors
    record = read_result(again, "forgotten.json")
    assert set(record["fingerprints"]) > set(read_result(forgotten, "forgotten.json")["fingerprints"])
    assert record["data"]["after"]["train"]["rows"] == 38


def test_a_proof_is_verified(forgotten: Path, finished: Callable[..., Path], capfd: Capture) -> None:
    before = digests(forgotten)
    code, said, _ = check(forgotten, capfd)
    assert code == 0
    assert said.splitlines()[0] == f"{forgotten}: 2 fingerprints are left out, as claimed"
    assert "none of the 69 rows in use has one of the fingerprints; 1 files of weights are as claimed" in said
    assert f"{finished('lora')} still exists" in said
    assert digests(forgotten) == before


def edit(file: Path, change: Callable[[Any], object]) -> None:
    record = json.loads(file.read_text(encoding="utf-8"))
    change(record)
    file.write_text(json.dumps(record), encoding="utf-8")


FALSE = {
    "a record of another training": (
        lambda new: edit(new / "result.json", lambda r: r["data"]["splits"]["train"].update(sha256="0" * 64)),
        "was trained on other data than forgotten.json claims: train has other rows, in the same number (38)",
    ),
    "rows that were not left out": (
        lambda new: edit(new / "result.json", lambda r: r["data"]["splits"]["train"]["without"].update(rows=1)),
        "was trained on other data than forgotten.json claims: other rows of train were left out",
    ),
    "a claim of more rows": (
        lambda new: edit(new / "forgotten.json", lambda r: r["fingerprints"].append("0" * 64)),
        "has other fingerprints than forgotten.json claims",
    ),
    "a row that is listed but not claimed": (
        lambda new: edit(new / "forgotten.json", lambda r: r["forgotten"][0].update(fingerprint="0" * 64)),
        "lists rows whose fingerprints it does not claim",
    ),
    "another adapter": (
        lambda new: (new / "adapter" / "adapter_model.safetensors").write_bytes(b"other"),
        "adapter/adapter_model.safetensors is not the file that forgotten.json claims",
    ),
    "no proof": (
        lambda new: (new / "forgotten.json").unlink(),
        "has no forgotten.json; name a folder that recipes/forget.py wrote",
    ),
    "half a proof": (lambda new: (new / "forgotten.json").write_text('{"format": 1}'), "is damaged"),
    "a proof with a number of rows": (
        lambda new: edit(new / "forgotten.json", lambda r: r.update(fingerprints=5)),
        "forgotten.json: is damaged: fingerprints: 5 is not of type 'array'",
    ),
    "settings that are unknown": (
        lambda new: edit(new / "result.json", lambda r: r["settings"]["task"].update(colour="red")),
        "result.json: is damaged, or of another version: settings.task",
    ),
    "a proof of the future": (lambda new: edit(new / "forgotten.json", lambda r: r.update(format=2)), "has format 2"),
}


@pytest.mark.parametrize("case", FALSE)
def test_a_false_claim_is_found(case: str, forgotten: Path, capfd: Capture) -> None:
    change, message = FALSE[case]
    change(forgotten)
    code, said, errors = check(forgotten, capfd)
    assert (code, said) == (2, "")
    assert message in errors[-1]
    assert errors[-1].startswith("error: ")


def test_files_that_bring_a_row_back_are_found(
    tiny_model: Path, people: Path, place: Path, tmp_path: Path, capfd: Capture
) -> None:
    own = tmp_path / "own"
    shutil.copytree(people, own)
    finish_run("lora", tiny_model, own, tmp_path / "old")
    assert cli_in_process(command(tmp_path / "old", tmp_path / "new", place), capfd)[0] == 0
    with (own / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"text": "a later row", "label": "positive", "author": "a1"}) + "\n")
    code, _, errors = check(tmp_path / "new", capfd)
    assert code == 2
    assert "forget.check: the data of" in errors[-1]
    assert "train had 38 rows and now has 39" in errors[-1]
    code, _, errors = cli_in_process(command(tmp_path / "old", tmp_path / "other", place), capfd)
    assert code == 2
    assert errors[-1].startswith(
        f"error: forget.run: the data of {tmp_path / 'old'} have changed since its training: train"
    )
    assert not (tmp_path / "other").exists()


def test_a_row_may_also_be_deleted_from_its_file(
    tiny_model: Path, people: Path, place: Path, tmp_path: Path, capfd: Capture
) -> None:
    own = tmp_path / "own"
    shutil.copytree(people, own)
    finish_run("lora", tiny_model, own, tmp_path / "old")
    assert cli_in_process(command(tmp_path / "old", tmp_path / "new", place), capfd)[0] == 0
    shutil.rmtree(tmp_path / "old")
    for split, lines in (("train", (6, 10)), ("validation", (3,))):
        rows = (own / f"{split}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [row for number, row in enumerate(rows, start=1) if number not in lines]
        (own / f"{split}.jsonl").write_text("".join(kept), encoding="utf-8")
    code, said, errors = check(tmp_path / "new", capfd)
    assert code == 0, errors
    assert said.splitlines()[-1] == f"{tmp_path / 'old'} is gone"


@pytest.mark.parametrize("lines", [(6, 10), (6,)])
def test_rows_deleted_from_the_files_bring_no_other_row_under_max_rows(
    tiny_model: Path, people: Path, place: Path, tmp_path: Path, capfd: Capture, lines: tuple[int, ...]
) -> None:
    """The check passes, and the next person is forgotten, with all or only some of the forgotten rows in the files."""
    own = tmp_path / "own"
    shutil.copytree(people, own)
    limits = {"task.max_rows": "{train: 10, validation: 5}"}
    finish_run("lora", tiny_model, own, tmp_path / "old", **limits)
    assert cli_in_process(command(tmp_path / "old", tmp_path / "new", place), capfd)[0] == 0
    assert read_result(tmp_path / "new", "config.json")["task"]["max_rows"] == {"train": 8, "validation": 4}
    rows = (own / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [row for number, row in enumerate(rows, start=1) if number not in lines]
    (own / "train.jsonl").write_text("".join(kept), encoding="utf-8")
    code, _, errors = check(tmp_path / "new", capfd)
    assert code == 0, errors
    place.write_text("train.jsonl:2\n", encoding="utf-8")
    code, _, errors = cli_in_process(command(tmp_path / "new", tmp_path / "newer", place), capfd)
    assert code == 0, errors
    assert read_result(tmp_path / "newer")["data"]["splits"]["train"]["rows"] == 7
    code, _, errors = check(tmp_path / "newer", capfd)
    assert code == 0, errors


def test_the_last_row_of_a_label_is_refused_before_a_folder_is_made(
    tiny_model: Path, people: Path, tmp_path: Path, capfd: Capture
) -> None:
    own, rows = tmp_path / "own", tmp_path / "rows.txt"
    shutil.copytree(people, own)
    for split, text in (("train", "a rare one"), ("test", "another rare one")):
        with (own / f"{split}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"text": text, "label": "mixed", "author": "u17"}) + "\n")
    finish_run("lora", tiny_model, own, tmp_path / "old", **{"task.choices": "from_train"})
    rows.write_text("train.jsonl:41\n", encoding="utf-8")
    code, _, errors = cli_in_process(command(tmp_path / "old", tmp_path / "new", rows), capfd)
    assert code == 2
    assert errors[-1].startswith(
        f"error: forget.rows: {own / 'test.jsonl'}:17: task.without names all rows of train with"
    )
    assert not (tmp_path / "new").exists()
    rows.write_text("train.jsonl:41\ntest.jsonl:17\n", encoding="utf-8")
    assert cli_in_process(command(tmp_path / "old", tmp_path / "new", rows), capfd)[0] == 0


def test_a_call_that_was_stopped_is_continued(
    forgotten: Path, finished: Callable[..., Path], place: Path, capfd: Capture
) -> None:
    claimed = read_result(forgotten, "forgotten.json")
    weights = forgotten / "adapter" / "adapter_model.safetensors"
    (forgotten / "forgotten.json").unlink()  # stopped after the training
    written = weights.stat().st_mtime_ns
    again = command(finished("lora"), forgotten, place, "--resume")
    assert cli_in_process(again, capfd)[0] == 0
    assert weights.stat().st_mtime_ns == written
    assert read_result(forgotten, "forgotten.json")["adapters"] == claimed["adapters"]
    (forgotten / "forgotten.json").unlink()
    (forgotten / "result.json").unlink()  # stopped before the end of the training
    code, _, errors = cli_in_process(again, capfd)
    assert code == 0, errors
    assert read_result(forgotten, "forgotten.json")["adapters"] == claimed["adapters"]
    code, _, errors = cli_in_process(again, capfd)
    assert (code, "is complete; verify it with --forget.check" in errors[-1]) == (2, True)


def test_large_data_leave_no_copy_without_masks_and_the_cache_is_named(
    tiny_model: Path, people: Path, place: Path, tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("presidio_analyzer", reason="needs the extra `readiness`")
    monkeypatch.setattr(tables, "LARGE", 0)
    monkeypatch.setattr(tables, "cache_folder", lambda: tmp_path / "cache")
    own, mail = tmp_path / "own", "jane.roe@example.com"
    shutil.copytree(people, own)
    (own / "train.jsonl").write_text((own / "train.jsonl").read_text("utf-8").replace("invoice", mail), "utf-8")
    finish_run("lora", tiny_model, own, tmp_path / "old", **{"task.pii": "mask"})
    code, said, errors = cli_in_process(command(tmp_path / "old", tmp_path / "new", place), capfd)
    assert code == 0, errors
    advice = f"{tmp_path / 'cache'} may have copies of the rows. Delete this folder."
    assert advice in said
    assert advice in read_result(tmp_path / "new", "forgotten.json")["old_folder"]["advice"]
    code, said, errors = check(tmp_path / "new", capfd)
    assert code == 0, errors
    assert advice in said
    files = [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    assert any(b"EMAIL_ADDRESS_1" in p.read_bytes() for p in files), "the rows as the run read them"
    assert [p for p in files if mail.encode() in p.read_bytes()] == []


def test_other_rows_do_not_continue_a_call(
    forgotten: Path, finished: Callable[..., Path], place: Path, capfd: Capture
) -> None:
    (forgotten / "forgotten.json").unlink()
    before = digests(forgotten)
    place.write_text("train.jsonl:7\n", encoding="utf-8")
    code, _, errors = cli_in_process(command(finished("lora"), forgotten, place, "--forget.resume", "true"), capfd)
    assert code == 2
    assert "has other rows than forget.rows and forget.where name; start anew" in errors[-1]
    assert digests(forgotten) == before


def test_a_folder_of_the_user_is_not_touched(
    finished: Callable[..., Path], place: Path, tmp_path: Path, capfd: Capture
) -> None:
    new = tmp_path / "new"
    new.mkdir()
    (new / "mine.txt").write_text("mine")
    for more, message in (
        ((), f"error: forget.output_dir: {new} exists already; name a new folder"),
        (("--forget.resume", "true"), f"error: forget.resume: {new} has no without.txt of this recipe; "),
    ):
        code, _, errors = cli_in_process(command(finished("lora"), new, place, *more), capfd)
        assert code == 2
        assert errors[-1].startswith(message)
    assert [p.name for p in new.iterdir()] == ["mine.txt"]


def test_the_new_folder_is_not_within_the_old_one(finished: Callable[..., Path], place: Path, capfd: Capture) -> None:
    old = finished("lora")
    for new in (old, old / "new"):
        code, _, errors = cli_in_process(command(old, new, place), capfd)
        assert code == 2
        assert errors[-1].startswith(f"error: forget.output_dir: {new} is within forget.run")


def made_run(folder: Path, recipe: str, done: bool = True, **sections: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"recipe": recipe} | sections))
    if done:
        (folder / "result.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("recipe", "done", "sections", "message"),
    [
        (
            "evaluate",
            True,
            {},
            "is a run of evaluate, which trains nothing; name a run of a recipe that trains one model",
        ),
        ("hard_prompt", True, {}, "is a run of hard_prompt, which trains nothing"),
        ("sweep", True, {"training": {}}, "is a run of sweep, which trains several candidates"),
        ("lora", False, {"training": {}}, "has no result.json, so it is not finished; continue it with --resume"),
        ("lora", True, {"training": {}}, "result.json: is damaged, or not the record of a run"),
        (
            "prompt_tuning",
            True,
            {"training": {}, "prompt": {"init_adapter": "runs/other"}},
            "has prompt.init_adapter runs/other, which may know the rows; set forget.any_start to true",
        ),
        ("lora", True, {"training": {"teacher": "runs/big"}}, "has training.teacher runs/big, which may know the rows"),
    ],
)
def test_runs_that_cannot_forget_are_one_line(
    tmp_path: Path, place: Path, capfd: Capture, recipe: str, done: bool, sections: dict[str, Any], message: str
) -> None:
    old = made_run(tmp_path / "old", recipe, done, **sections)
    code, said, errors = cli_in_process(command(old, tmp_path / "new", place), capfd)
    assert (code, said, len(errors)) == (2, "", 1)
    assert message in errors[0]
    assert not (tmp_path / "new").exists()


def test_a_row_that_a_text_of_the_run_quotes_is_not_forgotten(
    tiny_model: Path, people: Path, place: Path, tmp_path: Path, capfd: Capture
) -> None:
    text = tmp_path / "examples.txt"
    text.write_text(f"{SECRET} positive\n", encoding="utf-8")
    finish_run("prefix_tuning", tiny_model, people, tmp_path / "old", **{"prefix.init_text": text})
    code, _, errors = cli_in_process(command(tmp_path / "old", tmp_path / "new", place), capfd)
    assert code == 2
    assert errors[-1] == (
        f"error: forget.run: prefix.init_text of {tmp_path / 'old'} holds the input of {people / 'train.jsonl'}:6, "
        "which is to be forgotten; first run recipes/prefix_tuning.py with another prefix.init_text, or set "
        "forget.any_start to true if it is no copy"
    )
    assert not (tmp_path / "new").exists()
    more = ("--forget.any_start", "true")
    assert cli_in_process(command(tmp_path / "old", tmp_path / "new", place, *more), capfd)[0] == 0


def test_a_folder_without_a_run_is_one_line(
    finished: Callable[..., Path], place: Path, tmp_path: Path, capfd: Capture
) -> None:
    old = finished("lora")
    code, _, errors = cli_in_process(command(Path(f"{old}x"), tmp_path / "new", place), capfd)
    assert (code, len(errors)) == (2, 1)
    assert f'no such folder: {old}x (did you mean "{old}"?)' in errors[0]
    code, _, errors = cli_in_process(command(tmp_path, tmp_path / "new", place), capfd)
    assert (code, errors) == (
        2, [f"error: forget.run: {tmp_path} has no config.json of a run; name the folder that a recipe wrote"]
    )  # fmt: skip


def test_a_setting_that_is_unknown_today_is_one_line(
    finished: Callable[..., Path], place: Path, tmp_path: Path, capfd: Capture
) -> None:
    old = tmp_path / "old"
    shutil.copytree(finished("lora"), old)
    edit(old / "config.json", lambda record: record["training"].update(momentum=0.9))
    code, _, errors = cli_in_process(command(old, tmp_path / "new", place), capfd)
    assert (code, len(errors)) == (2, 1)
    assert errors[0].startswith(f"error: {old / 'config.json'}: ")
    assert "momentum" in errors[0]


@pytest.mark.slow
def test_it_runs_as_a_process(finished: Callable[..., Path], place: Path, tmp_path: Path) -> None:
    done = run_recipe(command(finished("lora"), tmp_path / "new", place))
    assert done.returncode == 0, done.stderr
    assert f"written: {tmp_path / 'new' / 'forgotten.json'}" in done.stdout
    assert run_recipe(["recipes/forget.py", "--forget.check", str(tmp_path / "new")]).returncode == 0
