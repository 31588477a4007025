"""The model card with its results for the Hub, and the dataset card in Croissant's format."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import chain, count
from pathlib import Path
from typing import Any
from urllib.parse import quote

from softprompts.data.readers import open_file
from softprompts.data.sources import EMBEDDED_PREFIX
from softprompts.errors import UserError, short
from softprompts.governance import documents
from softprompts.governance.documents import Known, bounds, interval, number
from softprompts.governance.groups import ByGroup
from softprompts.models.paths import names_folder
from softprompts.reports.run import PIPELINES
from softprompts.reports.tables import markdown_table
from softprompts.system.files import one_line

from huggingface_hub import EvalResult, ModelCard, ModelCardData

HERE = Path(__file__).parent
PIPELINE_BY_DEFAULT = "text-generation"
# Formats that Croissant's readers know as tables with columns.
TABLES = {
    ".jsonl": "application/jsonlines",
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".parquet": "application/x-parquet",
}
OTHER_FORMATS = {".json": "application/json", ".arrow": "application/vnd.apache.arrow.file"}
KINDS = {bool: "sc:Boolean", int: "sc:Integer", float: "sc:Float"}
# The first lines of licences, and their names at SPDX.
LICENCES = {"The MIT License": "MIT", "MIT License": "MIT", "Apache License": "Apache-2.0"}
SPDX = ("BSD-3-Clause", "CC-BY-4.0", *LICENCES.values())


def model_card(known: Known, notice: str, answers: Mapping[str, str]) -> str:
    """Return the model card as text: front matter with a model index, then the sections of a card."""
    result = known.evidence.result
    name = f"{result.task}-{result.recipe}-{known.evidence.version}"
    pipeline = _pipeline(known)
    scores = [
        EvalResult(
            task_type=pipeline or (PIPELINE_BY_DEFAULT if known.generates else "text-classification"),
            dataset_type=result.task,
            dataset_name=result.task,
            dataset_split=known.evidence.split,
            metric_type=metric,
            metric_value=round(found.value, 4),
        )
        for metric, found in result.metrics.items()
        if found.value is not None
    ]
    saved = result.notes.get("saved", "adapter" if result.parameters["saved"] or result.notes.get("soup") else None)
    head = ModelCardData(
        base_model=None if known.evidence.base_is_folder else known.evidence.base,  # on the Hub, a path is an id
        library_name={"model": "transformers", "adapter": "peft"}.get(saved or ""),
        license=answers.get("model_licence"),  # that of the base model need not be that of what was trained
        pipeline_tag=pipeline,
        tags=["soft-prompts", known.method.replace("_", "-")],
        model_name=name if scores else None,
        eval_results=scores or None,
    )
    facts = {key: fact(known) for key, fact in documents.FACTS.items()}
    rows = [[n, number(x.value), bounds(x), f"{x.rows:,}"] for n, x in result.metrics.items()]
    card = ModelCard.from_template(
        head,
        template_path=str(HERE / "model_card.md.j2"),
        name=name,
        known=known,
        facts=facts,
        answers=answers,
        notice=notice,
        note=documents.transparency_note(known, answers),
        scores=markdown_table(["metric", known.evidence.split, "95 % interval", "rows"], rows),
        groups=group_table(known.by_group),
    )
    return str(card).rstrip() + "\n"


def _pipeline(known: Known) -> str | None:
    """Return the Hub's name for the way in which the model answers; None if the run did not save its kind."""
    result = known.evidence.result
    by_default = PIPELINE_BY_DEFAULT if result.parameters["saved"] else None
    return PIPELINES.get(result.notes.get("kind", ""), by_default)


def group_table(by_group: ByGroup) -> str:
    """Return the scores by group as a table in Markdown; empty without groups."""
    rows = [
        [g.column, g.value, metric, interval(found) + (", few rows" if g.few else "")]
        for g in by_group.groups
        for metric, found in g.metrics.items()
    ]
    return markdown_table(["column", "group", "metric", "score"], rows) if rows else ""


@cache
def context() -> dict[str, Any]:
    """Return the JSON-LD context of Croissant 1.0."""
    found: dict[str, Any] = json.loads((HERE / "croissant_context.json").read_text(encoding="utf-8"))
    return found


def croissant(known: Known, folder: Path, answers: Mapping[str, str]) -> dict[str, Any]:
    """Return the dataset card as JSON-LD. It has no rows, only files with checksums and the names of columns.

    Args:
        known: the run and its rows.
        folder: of the file; files of the data have paths from there.
        answers: of a person.
    """
    result, task = known.evidence.result, known.settings["task"]
    files = list(_files(known))
    ids = _ids([file for file, _ in files])
    optional = {
        "url": answers.get("dataset_url"),
        "datePublished": answers.get("dataset_published"),
        "rai:dataCollection": answers.get("dataset_collection"),
        "rai:dataBiases": answers.get("dataset_biases") or " ".join(documents.FACTS["balance"](known)),
    }
    masked = " ".join(documents.FACTS["masked"](known) + documents.FACTS["legal_basis"](known))
    return {
        "@context": context(),
        "@type": "sc:Dataset",
        "name": result.task,
        "description": _description(known, bool(files)),
        "conformsTo": ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"],
        "license": _spdx(result.data["licence"]),
        "creator": {"@type": "sc:Organization", "name": _creator(known)},
        "version": "1.0.0",
        **{key: value for key, value in optional.items() if value},
        "rai:dataUseCases": known.plan.goal,
        "rai:personalSensitiveInformation": masked,
        "distribution": [_file_object(file, ids[file], splits, folder) for file, splits in files] + _hub_objects(task),
        "recordSet": [found for file, _ in files if (found := _record_set(file, ids[file]))],
    }


def _creator(known: Known) -> str:
    """Return who made the data: the plan's data owner, unless others have published them."""
    task = known.settings["task"]
    dataset, owner = task.get("dataset"), known.plan.data_owner
    published = ([dataset] if str(dataset).startswith(EMBEDDED_PREFIX) else []) + _on_hub(task)
    if not published:
        return owner
    authors = f"the authors named in the licence of {' and '.join(published)}"
    others_made_train = dataset in published or "train" in (task.get("other_datasets") or {})
    return authors if others_made_train else f"{owner}; {authors}"


def _description(known: Known, has_files: bool) -> str:
    lines = [*documents.FACTS["data"](known)]
    dataset = known.settings["task"].get("dataset")
    if not has_files:
        lines.append(
            f"The rows are from the folder {dataset}, whose files this card does not list."
            if dataset and names_folder(dataset)
            else "No file of the data was at hand when this card was made."
        )
    digests = [f"{n}: {s['sha256']}" for n, s in known.evidence.result.data["splits"].items() if "sha256" in s]
    return " ".join(
        [*lines, *([f"SHA-256 of the run's prompts and targets: {'; '.join(digests)}."] if digests else [])]
    )


def _spdx(licence: str) -> str:
    """Return the address of a licence at SPDX; a text about several licences, or an unknown one, stays as it is."""
    named = re.sub(r" \([^()]*\)$", "", licence.strip())  # "CC-BY-4.0 (Banking77)"
    known = LICENCES.get(named, named)
    return f"https://spdx.org/licenses/{known}" if known in SPDX else licence


def _files(known: Known) -> Iterator[tuple[Path, list[str]]]:
    """Yield the files of the data, each once, with the splits that it feeds."""
    splits: dict[Path, list[str]] = {}
    for split, source in known.rows.sources.items():
        for file in source.files:
            splits.setdefault(file, []).append(split)
    yield from splits.items()


def _suffixes(file: Path) -> tuple[str, bool]:
    """Return the suffix of a file's format, and whether the file is compressed."""
    packed = file.suffix.lower() in (".gz", ".bz2", ".xz", ".zst")
    return (Path(file.stem).suffix if packed else file.suffix).lower(), packed


def _ids(files: Iterable[Path]) -> dict[Path, str]:
    """Return the name of each file in the card: with its folder, since splits may have files of one name.

    A number tells files apart whose folders have one name as well.
    """
    names: dict[Path, str] = {}
    for file in files:
        name = quote("/".join(file.resolve().parts[-2:]))
        numbered = (f"{name}{f'-{number}' if number > 1 else ''}" for number in count(1))
        names[file] = next(one for one in numbered if one not in names.values())
    return names


def _file_object(file: Path, name: str, splits: list[str], folder: Path) -> dict[str, Any]:
    kind, packed = _suffixes(file)
    with one_line(file), file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": file.name,
        "description": f"Feeds: {', '.join(splits)}.",
        "contentUrl": os.path.relpath(file.resolve(), folder.resolve()),
        "contentSize": f"{file.stat().st_size} B",
        "encodingFormat": "application/octet-stream" if packed else (TABLES | OTHER_FORMATS).get(kind, "text/plain"),
        "sha256": digest,
    }


def _on_hub(task: Mapping[str, Any]) -> list[str]:
    """Return the ids of the task's datasets on the Hub. A folder is none, although `datasets` loads it by its name."""
    others = [str(other).partition(":")[0] for other in (task.get("other_datasets") or {}).values()]
    names = dict.fromkeys(str(name) for name in (task.get("dataset"), *others) if name)
    return [name for name in names if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and not names_folder(name)]


def _hub_objects(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the repositories of datasets of the Hub, which have a revision in place of a checksum."""
    return [
        {
            "@type": "cr:FileObject",
            "@id": name,
            "name": name,
            "description": f"The dataset on the Hub, revision {_revision(task, name) or 'not recorded'}.",
            "contentUrl": f"https://huggingface.co/datasets/{name}",
            "encodingFormat": "git+https",
            "sha256": "https://github.com/mlcommons/croissant/issues/80",
        }
        for name in _on_hub(task)
    ]


def _revision(task: Mapping[str, Any], name: str) -> str | None:
    return task.get("revision") if name == task.get("dataset") else None


def _record_set(file: Path, file_id: str) -> dict[str, Any] | None:
    """Return the columns of a file; None for a format whose columns Croissant cannot name, or a damaged file.

    The whole file is read, since later rows may have further columns and values of another type.
    """
    kind, packed = _suffixes(file)
    if packed or kind not in TABLES:
        return None
    columns: dict[str, set[str]] = {}
    try:
        for _, record in chain.from_iterable(open_file(file).batches()):
            for name, value in record.items():
                if name:  # a table's index has no name
                    kinds = columns.setdefault(name, set())
                    kinds.update([] if value is None else [KINDS.get(type(value), "sc:Text")])
    except UserError:
        return None
    if not columns:
        return None
    name = f"rows-of-{file_id}"
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": f"rows of {file.name}",
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{name}/{quote(column)}",
                "name": column,
                "description": f"The column {short(column)}.",
                "dataType": _data_type(kinds),
                "source": {"fileObject": {"@id": file_id}, "extract": {"column": column}},
            }
            for column, kinds in columns.items()
        ],
    }


def _data_type(kinds: set[str]) -> str:
    """Return the type of a column; text if its values have several, or none has a value."""
    if len(kinds) == 1:
        return next(iter(kinds))
    return "sc:Float" if kinds == {"sc:Integer", "sc:Float"} else "sc:Text"
