"""The model card as the Hub reads it, and the dataset card as Croissant's reader does."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from made_governance import SIZES, Made, edit, made_rows
from made_tasks import write
from softprompts.governance import cards, record

import pandas
import pytest
from huggingface_hub import ModelCard


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def croissant(made: Made, home: Path, **changes: Any) -> dict[str, Any]:
    folder = record.write_governance(made.asked(home, **changes)).parent
    return json.loads((folder / "croissant.json").read_text(encoding="utf-8"))


def test_the_hub_reads_the_model_index(made: Made) -> None:
    home = made.run()
    record.write_governance(made.asked(home))
    text = (home / "governance" / "model_card.md").read_text(encoding="utf-8")
    card = ModelCard(text)
    assert card.data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    (result,) = card.data.eval_results or []
    assert (result.metric_type, result.metric_value, result.dataset_split) == ("accuracy", 0.75, "test")
    assert card.data.license is None, "nobody has chosen one"
    assert "\n- Licence of the base model: Apache-2.0.\n" in text
    assert "\n- Licence of this model: open question `model_licence`.\n\n## Intended use\n" in text
    for heading in ("Model", "Intended use", "Not intended", "Data", "Training", "Evaluation", "Note for users"):
        assert f"\n## {heading}\n" in text
    assert "\n\n\n" not in text
    assert "| language | de | accuracy | 50.0 % (95 % interval " in text
    assert "open question `limits`" in text


def test_a_licence_that_a_person_has_chosen_is_that_of_the_card(made: Made) -> None:
    home = made.run()
    record.write_governance(made.asked(home))
    (home / "governance" / "answers.yaml").write_text("model_licence: cc-by-4.0\n", encoding="utf-8")
    record.write_governance(made.asked(home))
    text = (home / "governance" / "model_card.md").read_text(encoding="utf-8")
    assert ModelCard(text).data.license == "cc-by-4.0"
    assert "\n- Licence of this model: cc-by-4.0.\n" in text


def test_a_whole_model_of_another_base_has_its_library_and_no_licence_of_ours(made: Made) -> None:
    home = made.run(model={"name_or_path": "org/other"}, notes={"saved": "model", "kind": "encoder"})
    record.write_governance(made.asked(home))
    data = ModelCard((home / "governance" / "model_card.md").read_text(encoding="utf-8")).data
    assert (data.library_name, data.license, data.pipeline_tag) == ("transformers", None, "text-classification")


def test_files_have_checksums_and_columns_and_no_rows(made: Made) -> None:
    card = croissant(made, made.run())
    assert [d["name"] for d in card["distribution"]] == ["train.jsonl", "validation.jsonl", "test.jsonl"]
    assert [d["description"] for d in card["distribution"]] == ["Feeds: train.", "Feeds: validation.", "Feeds: test."]
    fields = {f["name"]: f["dataType"] for f in card["recordSet"][0]["field"]}
    assert fields == {
        "text": "sc:Text",
        "label": "sc:Text",
        "language": "sc:Text",
        "customer": "sc:Text",
        "urgent": "sc:Boolean",
    }
    assert card["creator"]["name"] == "Edsger"
    assert card["rai:dataBiases"].startswith("Labels of train: billing 50.0 %")
    assert "url" not in card


def test_the_creator_of_published_data_is_not_the_owner_of_the_plan(made: Made) -> None:
    home = made.run()
    edit(home / "result.json", lambda tree: tree["settings"]["task"].update(dataset="embedded:support"))
    assert croissant(made, home)["creator"]["name"] == "the authors named in the licence of embedded:support"


def test_answers_go_into_the_card(made: Made) -> None:
    home = made.run()
    croissant(made, home)
    answers = "dataset_url: https://example.org/d\ndataset_published: 2026-01-31\ndataset_collection: By hand.\n"
    (home / "governance" / "answers.yaml").write_text(answers, encoding="utf-8")
    card = croissant(made, home)
    assert (card["url"], card["datePublished"]) == ("https://example.org/d", "2026-01-31")
    assert card["rai:dataCollection"] == "By hand."


def test_a_folder_that_datasets_loads_is_not_on_the_hub(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    home = made.run()
    edit(home / "result.json", lambda tree: tree["settings"]["task"].update(dataset="data/mine", train="train"))
    monkeypatch.chdir(made.folder)
    assert croissant(made, home)["distribution"][0]["contentUrl"] == "https://huggingface.co/datasets/data/mine"
    (made.folder / "data" / "mine").mkdir(parents=True)
    card = croissant(made, home)
    assert (card["distribution"], card["creator"]["name"]) == ([], "Edsger")
    assert "The rows are from the folder data/mine, whose files this card does not list." in card["description"]


def test_every_dataset_of_the_hub_is_named(made: Made) -> None:
    home = made.run()
    task = {"other_datasets": {"test": "org/other:main"}, "test": "test"}
    edit(home / "result.json", lambda tree: tree["settings"]["task"].update(task))
    card = croissant(made, home)
    assert [d["name"] for d in card["distribution"]][-1] == "org/other"
    assert card["creator"]["name"] == "Edsger; the authors named in the licence of org/other"
    edit(home / "result.json", lambda tree: tree["settings"]["task"].update(dataset="org/tickets", revision="abc"))
    card = croissant(made, home)
    assert [d["description"] for d in card["distribution"]] == [
        "The dataset on the Hub, revision abc.",
        "The dataset on the Hub, revision not recorded.",
    ]
    assert card["creator"]["name"] == "the authors named in the licence of org/tickets and org/other"


def test_columns_are_those_of_all_rows(made: Made) -> None:
    rows = [dict(made_rows("train")[n % SIZES["train"]]) for n in range(2100)]
    for n, row in enumerate(rows):
        row |= {"number": n or None, "score": n if n < 2000 else n / 2, "empty": None}
    rows[-1]["phone"] = "555"
    write(Path(made.files["train"]), rows)
    fields = {f["name"]: f["dataType"] for f in croissant(made, made.run())["recordSet"][0]["field"]}
    assert (fields["number"], fields["score"], fields["empty"]) == ("sc:Integer", "sc:Float", "sc:Text")
    assert fields["phone"] == "sc:Text"


def test_files_of_one_name_in_folders_of_one_name_are_told_apart(made: Made) -> None:
    for split in SIZES:
        (made.folder / split / "de").mkdir(parents=True)
        setattr(made.task, split, write(made.folder / split / "de" / "rows.jsonl", made_rows(split)))
    card = croissant(made, made.run())
    names = ["de/rows.jsonl", "de/rows.jsonl-2", "de/rows.jsonl-3"]
    assert [d["@id"] for d in card["distribution"]] == names
    assert [r["@id"] for r in card["recordSet"]] == [f"rows-of-{name}" for name in names]
    assert [r["field"][0]["source"]["fileObject"]["@id"] for r in card["recordSet"]] == names


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl.gz"])
def test_other_formats_are_described_as_far_as_croissant_knows_them(made: Made, kind: str) -> None:
    for split in SIZES:
        rows = [{**row, "number": n, "score": n / 2} for n, row in enumerate(made_rows(split))]
        file = made.folder / f"{split}.{kind}"
        if kind == "csv":
            pandas.DataFrame(rows).to_csv(file)  # its index is a column without a name
        elif kind == "parquet":
            pandas.DataFrame(rows).to_parquet(file)
        else:
            file.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
        setattr(made.task, split, str(file))
    card = croissant(made, made.run())
    formats = {"csv": "text/csv", "parquet": "application/x-parquet", "jsonl.gz": "application/octet-stream"}
    assert {d["encodingFormat"] for d in card["distribution"]} == {formats[kind]}
    assert len(card["recordSet"]) == (0 if kind == "jsonl.gz" else 3)
    assert all(field["name"] for one in card["recordSet"] for field in one["field"])
    if kind == "parquet":
        kinds = {f["name"]: f["dataType"] for f in card["recordSet"][0]["field"]}
        assert (kinds["number"], kinds["score"], kinds["urgent"]) == ("sc:Integer", "sc:Float", "sc:Boolean")


def test_data_that_is_gone_or_on_the_hub_has_a_card_as_well(made: Made) -> None:
    home = made.run()
    Path(made.files["train"]).unlink()
    gone = croissant(made, home)
    assert (gone["distribution"], gone["recordSet"]) == ([], [])
    assert "The rows could not be read again: no such file" in gone["description"]
    assert "No file of the data was at hand" in gone["description"]
    result = json.loads((home / "result.json").read_text(encoding="utf-8"))
    result["settings"]["task"] |= {"dataset": "org/tickets", "revision": "abc", "train": None, "validation": None}
    (home / "result.json").write_text(json.dumps(result), encoding="utf-8")
    (hub,) = croissant(made, home)["distribution"]
    assert hub["contentUrl"] == "https://huggingface.co/datasets/org/tickets"
    assert "revision abc" in hub["description"]


def test_croissants_own_reader_accepts_the_card_and_reads_the_rows(made: Made) -> None:
    mlcroissant = pytest.importorskip("mlcroissant", reason="needs the extra `governance`")
    home = made.run()
    croissant(made, home)
    file = home / "governance" / "croissant.json"
    dataset = mlcroissant.Dataset(jsonld=str(file))
    issues = dataset.metadata.ctx.issues
    assert issues.errors == set()
    recommended = ("citeAs", "datePublished", "url")
    assert [w for w in issues.warnings if not any(name in w for name in recommended)] == []
    (name,) = [record_set.uuid for record_set in dataset.metadata.record_sets if record_set.uuid.endswith("test.jsonl")]
    found = [row[f"{name}/text"].decode() for row in dataset.records(name)]
    assert found == [row["text"] for row in made_rows("test")]
    tree = json.loads(file.read_text(encoding="utf-8"))
    del tree["distribution"][0]["sha256"]
    file.write_text(json.dumps(tree), encoding="utf-8")
    with pytest.raises(mlcroissant.ValidationError):
        mlcroissant.Dataset(jsonld=str(file))


@pytest.mark.parametrize(
    ("licence", "address"),
    [
        ("                                 Apache License", "https://spdx.org/licenses/Apache-2.0"),
        ("The MIT License (MIT)", "https://spdx.org/licenses/MIT"),
        ("CC-BY-4.0", "https://spdx.org/licenses/CC-BY-4.0"),
        ("BSD-3-Clause (numpy, scipy)", "https://spdx.org/licenses/BSD-3-Clause"),
        ("CC-BY-4.0 (one) and ISC (another)", None),
        ("that of your data", None),
    ],
)
def test_one_known_licence_has_its_address(licence: str, address: str | None) -> None:
    assert cards._spdx(licence) == (address or licence)
