"""The configs of Hub datasets, each on local files laid out as the Hub has them: the same columns and types."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from helpers import ROOT, cli_in_process, load_recipe, read_result
from softprompts.config.cli import parse
from softprompts.errors import UserError
from softprompts.metrics.scoring import load_metrics, reported
from softprompts.tasks.task import load_task

import datasets
import pytest
from datasets import ClassLabel, Features, List, Translation, Value

TEXT = Value("string")
INTENTS = ["activate_my_card", "age_limit", "Refund_not_showing_up"]  # three of the 77
TERMS = "Limitation of liability/Unilateral termination/Unilateral change/Content removal"
TERMS += "/Contract by using/Choice of law/Jurisdiction/Arbitration"
BANK, E2E, XSUM = "legacy-datasets/banking77", "tuetschek/e2e_nlg_cleaned", "EdinburghNLP/xsum"
OPUS, LEX, BOOLQ = "Helsinki-NLP/opus-100", "coastalcph/lex_glue", "google/boolq"
META, GSM = "meta-math/MetaMathQA", "openai/gsm8k"
PARQUET_COPY = "refs/convert/parquet"
SPLITS = ("train", "validation", "test")
# The rows of each split have different numbers, which show the origin of a row.
FIRST = {"train": 0, "validation": 300, "test": 600}
ROWS = 210


@dataclass(frozen=True)
class HubData:
    """A dataset of the Hub: its files, the types of its columns (None: JSON), its row number n, splits and subset."""

    files: str
    features: Features | None
    row: Callable[[int], dict[str, Any]]
    splits: tuple[str, ...] = SPLITS
    subset: str | None = None


HUB = {
    BANK: HubData(
        "data/{}-00000-of-00001.parquet",
        Features({"text": TEXT, "label": ClassLabel(names=INTENTS)}),
        lambda n: {"text": f"Message {n}", "label": n % 3},
        splits=("train", "test"),
    ),
    E2E: HubData(
        "default/{}/0000.parquet",
        Features({"meaning_representation": TEXT, "human_reference": TEXT}),
        lambda n: {"meaning_representation": f"name[Inn {n}], area[riverside]", "human_reference": f"Inn {n} is near."},
    ),
    XSUM: HubData(
        "default/{}/0000.parquet",
        Features({"document": TEXT, "summary": TEXT, "id": TEXT}),
        lambda n: {"document": f"First {n}.\nSecond.", "summary": f"Both {n}.", "id": str(n)},
    ),
    OPUS: HubData(
        "de-en/{}-00000-of-00001.parquet",
        Features({"translation": Translation(languages=["de", "en"])}),
        lambda n: {"translation": {"de": f"Die Datei {n} ist offen", "en": f"File {n}"}},
        subset="de-en",
    ),
    LEX: HubData(
        "unfair_tos/{}-00000-of-00001.parquet",
        Features({"text": TEXT, "labels": List(ClassLabel(names=TERMS.split("/")))}),
        lambda n: {"text": f"term {n} .", "labels": [[], [0, 7], [2]][n % 3]},
        subset="unfair_tos",
    ),
    BOOLQ: HubData(
        "data/{}-00000-of-00001.parquet",
        Features({"question": TEXT, "answer": Value("bool"), "passage": TEXT}),
        lambda n: {"question": f"is {n} even", "answer": n % 2 == 0, "passage": f"{n} -- a number."},
        splits=("train", "validation"),
    ),
    META: HubData(
        "MetaMathQA-395K.json",
        None,
        lambda n: {
            "type": "GSM_Rephrased",
            "query": f"What is {n} + 1?",
            "original_question": f"Add 1 to {n}.",
            "response": f"It is {n + 1}.\n#### {n + 1}\nThe answer is: {n + 1}",
        },
        splits=("train",),
    ),
    GSM: HubData(
        "main/{}-00000-of-00001.parquet",
        Features({"question": TEXT, "answer": TEXT}),
        lambda n: {"question": f"Add 2 to {n}.", "answer": f"{n} + 2 = <<{n}+2={n + 2}>>{n + 2}\n#### {n + 2}"},
        splits=("train", "test"),
        subset="main",
    ),
}


def lay_out(folder: Path, data: HubData) -> None:
    """Write a dataset's files and, if it has subsets, the card that names them."""
    card = ["---", "configs:", f"- config_name: {data.subset}", "  data_files:"]
    for split in data.splits:
        path = folder / data.files.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [data.row(n) for n in range(FIRST[split], FIRST[split] + ROWS)]
        if data.features is None:
            path.write_text(json.dumps(rows), encoding="utf-8")
        else:
            datasets.Dataset.from_list(rows, features=data.features).to_parquet(str(path))
        card += [f"  - split: {split}", f"    path: {data.files.format(split)}"]
    if data.subset:
        (folder / "README.md").write_text("\n".join([*card, "---", ""]), encoding="utf-8")


Call = tuple[str, str | None, str, str | None]


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Let an id of the Hub lead to its local folder, without other changes; returns the calls."""
    made: list[Call] = []
    load_dataset = datasets.load_dataset

    def local(path: str, subset: str | None, *, split: str, revision: str | None) -> datasets.Dataset:
        made.append((path, subset, split, revision))
        if path in HUB and not (tmp_path / path).is_dir():
            lay_out(tmp_path / path, HUB[path])
        return load_dataset(str(tmp_path / path), subset, split=split, revision=revision)

    monkeypatch.setattr("datasets.load_dataset", local)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return made


def section(name: str, key: str) -> Any:
    """Return a section of a config, as its recipe gets it."""
    path = ROOT / "configs" / "hub" / f"{name}.yaml"
    return parse(load_recipe("prompt_tuning").main, ["--config", str(path)])[key]


@dataclass(frozen=True)
class Expected:
    """What a config asks the Hub for and makes, by hand, of row `n` of a place there; `rows` has such an n for each."""

    calls: list[Call]
    prompt: str
    target: str
    rows: dict[str, int]
    choices: tuple[str, ...] | None = None
    held_out: bool = False  # validation, of train


OWN_SPLITS = {"train": 4, "validation": 304, "test": 604}
EXPECTED = {
    "banking77": Expected(
        [(BANK, None, "train", None), (BANK, None, "test", None)],
        "Message {n}\nIntent:",
        " age_limit",
        {"train": 4, "test": 604},
        (" Refund_not_showing_up", " activate_my_card", " age_limit"),
        held_out=True,
    ),
    "e2e": Expected(
        [(E2E, None, split, PARQUET_COPY) for split in SPLITS],
        "name[Inn {n}], area[riverside]\nDescription:",
        " Inn {n} is near.",
        OWN_SPLITS,
    ),
    "xsum": Expected(
        [(XSUM, None, split, PARQUET_COPY) for split in ("train[:20000]", "validation[:1000]", "test[:2000]")],
        "First {n}.\nSecond.\nSummary:",
        " Both {n}.",
        OWN_SPLITS,
    ),
    "opus100": Expected(
        [(OPUS, "de-en", split, None) for split in ("train[:20000]", "validation", "test")],
        "File {n}\nGerman:",
        " Die Datei {n} ist offen",
        OWN_SPLITS,
    ),
    "unfair_tos": Expected(
        [(LEX, "unfair_tos", split, None) for split in SPLITS],
        "term {n} .\nUnfair terms:",
        " Limitation of liability, Arbitration",
        OWN_SPLITS,
    ),
    "boolq": Expected(
        [(BOOLQ, None, "train", None), (BOOLQ, None, "validation", None)],
        "{n} -- a number.\nQuestion: is {n} even?\nAnswer:",
        " yes",
        {"train": 4, "test": 304},
        (" yes", " no"),
        held_out=True,
    ),
    "gsm8k": Expected(
        [(META, None, "train[:20000]", None), (GSM, "main", "train[:200]", None), (GSM, "main", "test", None)],
        "Question: What is {n} + 1? Think step by step.\nAnswer:",
        " It is 5.\n#### 5\nThe answer is: 5",
        {"train": 4},
    ),
}


def test_every_config_is_here() -> None:
    assert sorted(EXPECTED) == sorted(p.stem for p in (ROOT / "configs" / "hub").glob("*.yaml"))


@pytest.mark.parametrize("name", EXPECTED)
def test_it_makes_of_the_hubs_rows_what_it_says(name: str, calls: list[Call]) -> None:
    expected = EXPECTED[name]
    task = load_task(section(name, "task"))
    assert calls == expected.calls
    assert task.choices == expected.choices
    for split, n in expected.rows.items():
        held_out = task.splits["validation"] if expected.held_out and split == "train" else []
        targets = {row.prompt: row.target for row in [*task.splits[split], *held_out]}
        assert targets[expected.prompt.format(n=n)] == expected.target.format(n=n)
        assert sorted(targets) == sorted(expected.prompt.format(n=i) for i in range(n - 4, n - 4 + ROWS))
        assert len(task.splits[split]) + len(held_out) == ROWS
        assert bool(held_out) == (expected.held_out and split == "train")


@pytest.mark.parametrize("name", EXPECTED)
def test_its_metrics_report_what_chooses_its_checkpoint(name: str) -> None:
    names = section(name, "task").metrics
    assert section(name, "training").best_by in reported(load_metrics(names), ["a target of 5"])


def test_the_other_answers_of_a_task(calls: list[Call]) -> None:
    """No label at all, the second word of a verbalizer, and the splits of another dataset."""
    terms = load_task(section("unfair_tos", "task")).splits["test"]
    assert [r.target for r in terms[:3]] == [" none", " Limitation of liability, Arbitration", " Unilateral change"]
    assert [r.target for r in load_task(section("boolq", "task")).splits["test"][:2]] == [" yes", " no"]
    math = load_task(section("gsm8k", "task")).splits
    assert (len(math["validation"]), len(math["test"])) == (200, ROWS)
    assert [(math[split][1].prompt, math[split][1].target) for split in ("validation", "test")] == [
        ("Question: Add 2 to 1. Think step by step.\nAnswer:", " 1 + 2 = <<1+2=3>>3\n#### 3"),
        ("Question: Add 2 to 601. Think step by step.\nAnswer:", " 601 + 2 = <<601+2=603>>603\n#### 603"),
    ]
    assert math["test"][1].place == "openai/gsm8k test row 2"


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("opus100", {"subset": "de-fr"}, "task.dataset: cannot load Helsinki-NLP/opus-100: BuilderConfig 'de-fr' not"),
        ("gsm8k", {"test": "validation"}, "task.other_datasets: cannot load openai/gsm8k: Unknown split"),
        ("gsm8k", {"other_datasets": {"test": "openai/gsm9k"}}, "task.other_datasets: cannot load openai/gsm9k: "),
        (
            "gsm8k",
            {"other_datasets": {"tset": GSM}},
            'task.other_datasets: unknown split "tset" (did you mean "test"?)',
        ),
        (
            "gsm8k",
            {"rename": {"qurey": "question"}},
            'task.rename: no split has a column "qurey" (did you mean "query"?)',
        ),
        (
            "gsm8k",
            {"rename": {"query": "question"}},
            'row 1: no column "answer"; columns are: type, question, original_',
        ),
        ("opus100", {"target": " {translation[fr]}"}, '{translation[fr]}: no key "fr" in there; keys are: de, en'),
        ("unfair_tos", {"choices": "from_train"}, 'task.metrics: "label_f1" scores open targets'),
    ],
)
def test_mistakes_are_one_line(name: str, changes: dict[str, Any], message: str, calls: list[Call]) -> None:
    with pytest.raises(UserError) as caught:
        load_task(replace(section(name, "task"), **changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["banking77", "gsm8k"])
def test_it_runs_a_step_on_the_tiny_model(
    name: str, calls: list[Call], tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A config with choices, and one of several datasets with open answers, in bfloat16 as in the files."""
    flags = {
        "model.name_or_path": tiny_model,
        "task.long_rows": "cut_prompt",
        "task.max_rows": "{train: 32, validation: 4, test: 4}",
        "training.steps": 1,
        "training.warmup_steps": 0,
        "evaluation.bootstrap_resamples": 10,
        "run.output_dir": tmp_path / "run",
        "evaluation.max_new_tokens": 4,
    }
    pairs = [text for key, value in flags.items() for text in (f"--{key}", str(value))]
    config = f"configs/hub/{name}.yaml"
    code, _, errors = cli_in_process(["recipes/prompt_tuning.py", "--config", config, *pairs], capfd)
    assert code == 0, errors
    result = read_result(tmp_path / "run")
    assert result["data"]["splits"]["test"]["rows"] == 4
    assert section(name, "training").best_by in result["metrics"]
