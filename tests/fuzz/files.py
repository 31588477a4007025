"""Ways to damage files: data in JSONL, CSV and Parquet, JSON records, tensors.

Each returns the required outcome, as in `mutations`.
"""

from __future__ import annotations

import codecs
import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mutations import damage, leaves, misspelt, odd

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import torch
from safetensors.torch import load_file, save_file


def recode(rng: random.Random, file: Path) -> str:
    """Write a text in another encoding, with another byte-order mark or other line ends."""
    data = file.read_bytes()
    text = data.decode("utf-8", "surrogateescape")
    ways: list[tuple[Callable[[], bytes], str]] = [
        (lambda: codecs.BOM_UTF8 + data, "runs"),
        (lambda: text.replace("\n", "\r\n").encode("utf-8", "surrogateescape"), "any"),
        (lambda: text.encode("utf-16", "surrogatepass"), "any"),
        (lambda: text.replace("the", "thé").encode("latin-1", "replace"), "any"),
        (lambda: b"", "refused"),
        (lambda: b"\n\n", "refused"),
    ]
    make, expected = rng.choice(ways)
    file.write_bytes(make())
    return expected


def change_jsonl(rng: random.Random, file: Path) -> str:
    """Change one row of a JSONL file."""
    lines = file.read_text(encoding="utf-8").split("\n")
    i = rng.randrange(len(lines) - 1)
    row = json.loads(lines[i])
    key = rng.choice(["text", "label"])
    deep = "[" * 100000 + "]" * 100000
    ways: list[tuple[str, str]] = [
        (lines[i][:-1] + f', "{key}": "the"}}', "refused"),
        (json.dumps(row | {key: math.nan}), "refused"),
        (json.dumps(row | {key: -math.inf}), "refused"),
        (json.dumps(row | {key: "\ud83d"}), "refused"),
        (json.dumps(row | {"text": "a \ud83d b"}), "refused"),
        (json.dumps(row | {key: None}), "refused"),
        (json.dumps({k: v for k, v in row.items() if k != key}), "refused"),
        (json.dumps([row]), "refused"),
        (lines[i][:-1], "refused"),
        (lines[i] + lines[i], "refused"),
        (lines[i][:-1] + f', "more": {deep}}}', "any"),
        (lines[i][:-1] + f', "more": {"9" * 5000}}}', "any"),
        (lines[i][:-1] + ', "more": NaN}', "any"),
        (json.dumps(row | {"text": int("9" * 200)}), "any"),
        (json.dumps(row | {"more": 1}), "runs"),
        (f"\n{lines[i]}\n  ", "runs"),
        (json.dumps(row | {"text": "the " * 5000}), "refused"),
        *(
            (json.dumps(row | {key: value}), "any")
            for value in ["", "  ", "{text}", "\0", [], {}, [1], True, 1e999, "\u2028", [None]]
        ),
    ]
    lines[i], expected = rng.choice(ways)
    file.write_text("\n".join(lines), encoding="utf-8")
    return expected


def change_csv(rng: random.Random, file: Path) -> str:
    """Change the head or one row of a CSV file."""
    lines = file.read_text(encoding="utf-8").split("\n")
    i = rng.randrange(1, len(lines) - 1)
    ways: list[tuple[int, str, str]] = [
        (0, "text,label,text", "refused"),
        (0, lines[0] + ",", "refused"),
        (0, "text,label,label", "refused"),
        (0, lines[0].replace(",", ";"), "refused"),
        (0, lines[0].upper(), "refused"),
        (i, lines[i] + ",more", "refused"),
        (i, lines[i].partition(",")[0], "refused"),
        (i, '"' + lines[i], "refused"),
        (i, lines[i] + "\0", "any"),
        (i, ",,", "refused"),
        (i, f'"{"the " * 40000}"{lines[i]}', "any"),
        (i, "\n" + lines[i], "runs"),
        (i, " ," + lines[i].partition(",")[2], "any"),
    ]
    where, lines[where], expected = rng.choice([(w, text, e) for w, text, e in ways])
    file.write_text("\n".join(lines), encoding="utf-8")
    return expected


def change_shards(rng: random.Random, folder: Path) -> str:
    """Remove a shard of a table, add one, rename it, or put another file in its place."""
    shard = rng.choice(sorted(p for p in folder.iterdir() if p.is_file()))
    how = rng.randrange(7)
    if how == 0:
        shard.unlink()
        return "any"
    if how == 1:
        shutil.copy(shard, shard.with_name(f"part-9{shard.suffix}"))
        return "any"
    if how == 2:
        shard.rename(shard.with_name(rng.choice(["part", "part.txt", ".part.parquet", "part.parquet.gz", "x.csv"])))
        return "any"
    if how == 3:
        shard.write_bytes(rng.choice([b"", b"PAR1", b"ARROW1", b"{}\n", b"text,label\n"]))
        return "any"
    if how == 4:
        shard.unlink()
        shard.symlink_to(rng.choice(["nowhere", shard.name, "..", "/etc/hostname"]))
        return "any"
    if how == 5:
        shard.unlink()
        shard.mkdir()
        return "any"
    (folder / rng.choice(["notes.md", ".hidden.parquet", "_SUCCESS", "state.json", "dataset_dict.json"])).write_text(
        "mine"
    )
    return "any"


def _read_table(file: Path) -> tuple[pyarrow.Table, Callable[[pyarrow.Table], None]]:
    """Return the table of a Parquet or Arrow file, and a function that writes another table in this format."""
    if file.suffix == ".parquet":
        return pyarrow.parquet.read_table(file), lambda table: pyarrow.parquet.write_table(table, file)
    data = file.read_bytes()
    whole = data.startswith(b"ARROW1")
    opened, made = (
        (pyarrow.ipc.open_file, pyarrow.ipc.new_file) if whole else (pyarrow.ipc.open_stream, pyarrow.ipc.new_stream)
    )

    def write(table: pyarrow.Table) -> None:
        with pyarrow.OSFile(str(file), "wb") as sink, made(sink, table.schema) as writer:
            writer.write_table(table)

    return opened(pyarrow.py_buffer(data)).read_all(), write


def change_table(rng: random.Random, file: Path) -> str:
    """Change the columns of a Parquet or Arrow file."""
    table, write = _read_table(file)
    key = rng.choice(["text", "label"])
    count, values = table.num_rows, table.column(key)
    fill: list[tuple[Any, str]] = [
        (pyarrow.nulls(count), "refused"),
        (pyarrow.array([None, *values.to_pylist()[1:]]), "refused"),
        (pyarrow.array([math.nan] * count), "refused"),
        (values.combine_chunks().dictionary_encode(), "runs"),
        (values.cast(pyarrow.large_string()), "runs"),
        (pyarrow.array([[("a", 1)]] * count, pyarrow.map_(pyarrow.string(), pyarrow.int64())), "any"),
        (pyarrow.array([b"\xff"] * count), "any"),
        (pyarrow.array([{"a": [1]}] * count), "any"),
        (pyarrow.array(range(count), pyarrow.timestamp("us")), "any"),
        (pyarrow.array([["a", None]] * count), "any"),
    ]
    how = rng.randrange(4)
    if how == 0:
        table, expected = table.append_column(key, values), "refused"
    elif how == 1:
        table, expected = rng.choice([(table.slice(0, 0), "refused"), (table.drop_columns([key]), "refused")])
    else:
        column, expected = rng.choice(fill)
        name = key if how == 2 else "more"
        table = table.drop_columns([key]).append_column(key, column) if how == 2 else table.append_column(name, column)
        expected = expected if how == 2 else "any"
    write(table)
    return expected


def change_json(rng: random.Random, file: Path, free: tuple[str, ...] = ()) -> str:
    """Change a field of a JSON file; fields in `free` may change the result."""
    tree = json.loads(file.read_text(encoding="utf-8"))
    path = rng.choice(leaves(tree))
    place = tree
    for key in path[:-1]:
        place = place[key]
    key, value = path[-1], place[path[-1]]
    how = rng.randrange(6)
    if how == 0:
        del place[key]
    elif how == 1:
        place[misspelt(rng, str(key))] = place.pop(key)
    elif how == 2:
        place[key] = rng.choice([str(value), [value], {"a": value}, None])
    elif how == 3:
        place[rng.choice(["", "more", "peft_typ"])] = odd(rng, "")
    else:
        place[key] = odd(rng, "")
    text = json.dumps(tree, indent=1)
    if rng.random() < 0.15:
        text = rng.choice(
            [
                "[]",
                "{}",
                "null",
                text[: len(text) // 2],
                "",
                f"[{text}]",
                "\ufeff" + text,
                text.replace('": ', '": NaN, "', 1),
            ]
        )
    file.write_text(text, encoding="utf-8")
    return "any" if any(str(part) in free for part in path) else "same"


def change_tensors(rng: random.Random, file: Path) -> str:
    """Change the tensors of a safetensors file: names, shapes, types, or values to NaN; or change its header."""
    data = file.read_bytes()
    tensors = load_file(file)
    if not tensors:  # an earlier change of the same case removed them all
        return "same"
    name = rng.choice(sorted(tensors))
    value = tensors[name]
    how = rng.randrange(9)
    expected = "same"
    if how == 0:
        header = 8 + int.from_bytes(data[:8], "little")
        file.write_bytes(damage(rng, data[:header]) + data[header:])
        return "same"
    if how == 1:
        file.write_bytes(rng.choice([data[: rng.randrange(len(data))], data + b"\0", b""]))
        return "same"
    if how == 2:
        del tensors[name]
    elif how == 3:
        prefix = rng.choice(["_orig_mod.", "module.", "x"])
        chosen = rng.choice([[name], list(tensors)])
        tensors = {(prefix + k if k in chosen else k): v for k, v in tensors.items()}
    elif how == 4:
        tensors[name] = rng.choice(
            [
                value.flatten(),
                value[:-1] if value.dim() else value[None],
                value[..., None],
                value.t() if value.dim() == 2 else value[None],
            ]
        )
    elif how == 5:
        dtype = rng.choice([torch.float16, torch.float64, torch.int32, torch.bool])
        tensors[name] = value.to(dtype)
        expected = {torch.float16: "near", torch.float64: "same"}.get(dtype, "any")
    elif how == 6:
        tensors[name] = value.clone()
        tensors[name].view(-1)[0] = rng.choice([math.nan, math.inf])
        expected = "refused" if value.is_floating_point() else "any"
    elif how == 7:
        tensors["more"] = torch.zeros(2)
    else:
        tensors = {}
    save_file({k: v.contiguous() for k, v in tensors.items()}, file)
    return expected
