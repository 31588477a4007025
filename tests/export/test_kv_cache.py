"""Exported prefixes: the values are PEFT's, they are the same when read again, and a prompt finds its prefix."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from made_adapters import KINDS, export_prefixes, saved
from softprompts.errors import UserError
from softprompts.export.kv_cache import writer
from softprompts.export.kv_cache.prefixes import RUN, find_prefix, read_prefixes, read_states
from softprompts.export.kv_cache.writer import reserved_ids

import pytest
import torch
from peft import CartridgeConfig, PrefixTuningConfig
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

CONFIGS: dict[str, Any] = {"prefix": PrefixTuningConfig, "cartridge": CartridgeConfig}
RESERVED = [7, 8, 9]
TEXT = [20, 21, 22]
PT = {"format": "pt"}


@pytest.fixture
def tokenizer(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


def exported(model: Path, folder: Path, sizes: dict[str, int] | None = None, **changes: Any) -> None:
    """Export prefixes with random values, by name and number of tokens."""
    adapters = {}
    for name, tokens in (sizes or {"task": 10}).items():
        adapters[name] = folder / f"adapter {name}"
        saved(model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=tokens), adapters[name])
    export_prefixes(model, folder / "exports", adapters, **({"reserved": RESERVED} | changes))


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_export_is_compared_with_stock_peft(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    saved(tiny_model, CONFIGS[kind](task_type="CAUSAL_LM", num_virtual_tokens=10), tmp_path / "adapter")
    lines = export_prefixes(tiny_model, tmp_path / "exports", {"it": tmp_path / "adapter"}, reserved=RESERVED)
    assert [line.partition(";")[0] for line in lines] == ["it: greedy output equals stock PEFT's on 2 of 2 rows"]


def test_an_export_that_stock_peft_does_not_agree_with_leaves_nothing(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states_of = writer.states_of
    monkeypatch.setattr(writer, "states_of", lambda *a: states_of(*a)[::-1])  # values in the place of keys
    with pytest.raises(UserError, match="kv_cache failed its check, and nothing was written: the logits of task"):
        exported(tiny_model, tmp_path)
    assert not (tmp_path / "exports").exists()


def test_a_base_model_whose_files_name_weights_otherwise_is_said_not_to_be_told_apart(
    tiny_model: Path, tmp_path: Path
) -> None:
    base = tmp_path / "renamed"
    shutil.copytree(tiny_model, base)
    tensors = load_file(base / "model.safetensors")
    save_file({name.removeprefix("model."): t for name, t in tensors.items()}, base / "model.safetensors", PT)
    exported(tiny_model, tmp_path / "as ever")
    saved(base, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=10), tmp_path / "adapter")
    lines = export_prefixes(base, tmp_path / "exports", {"it": tmp_path / "adapter"}, reserved=RESERVED)
    assert "cannot tell this base model from others with the same config: no safetensors file" in lines[-1]
    (known,), (unknown,) = (read_prefixes(place / "exports") for place in (tmp_path / "as ever", tmp_path))
    assert "model.embed_tokens.weight" in known.weight_names
    assert not unknown.weight_names


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_file_holds_what_peft_puts_into_the_cache(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    tuned = saved(tiny_model, CONFIGS[kind](task_type="CAUSAL_LM", num_virtual_tokens=10), tmp_path / "adapter")
    export_prefixes(tiny_model, tmp_path / "exports", {"task": tmp_path / "adapter"}, reserved=RESERVED)
    (prefix,) = read_prefixes(tmp_path / "exports")
    keys, values = read_states(prefix, tmp_path / "exports")
    cache = tuned.get_prompt(1)
    assert len(cache.layers) == prefix.layers == len(keys)
    for layer, key, value in zip(cache.layers, keys, values, strict=True):
        assert torch.equal(key, layer.keys[0].transpose(0, 1))
        assert torch.equal(value, layer.values[0].transpose(0, 1))


def test_other_values_have_other_placeholders_and_the_same_values_the_same(tiny_model: Path, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        exported(tiny_model, tmp_path / folder, {"a": 40, "b": 41})
    one, two = (read_prefixes(tmp_path / folder / "exports") for folder in ("one", "two"))
    assert one == two
    assert one[0].placeholder_ids != one[1].placeholder_ids[:40]
    assert {id_ for prefix in one for id_ in prefix.placeholder_ids} == set(RESERVED)


def test_a_prompt_finds_the_prefix_that_it_begins_with(tiny_model: Path, tmp_path: Path) -> None:
    exported(tiny_model, tmp_path, {"a": 10, "b": 12})
    one, other = prefixes = read_prefixes(tmp_path / "exports")
    assert find_prefix([*one.placeholder_ids, *TEXT], prefixes) == one
    assert find_prefix([*other.placeholder_ids, *TEXT], prefixes) == other
    assert find_prefix(TEXT, prefixes) is None
    assert find_prefix([], prefixes) is None
    assert find_prefix([*TEXT, *RESERVED, *TEXT], prefixes) is None  # a few in a text are a text
    assert find_prefix(RESERVED, prefixes) is None


def test_a_prompt_with_stray_placeholders_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    exported(tiny_model, tmp_path)
    (prefix,) = prefixes = read_prefixes(tmp_path / "exports")
    ids = prefix.placeholder_ids
    for prompt, message in (
        ([ids[0]] * RUN + TEXT, "position 0 of the prompt are unknown"),
        ([*TEXT, *ids, *TEXT], "position 3 of the prompt are not at its start"),
        ([*ids, *ids, *TEXT], "position 10 of the prompt follow the prefix task"),
        (ids[1:] + tuple(TEXT), "are unknown"),
        (ids, "no token after the placeholders"),
    ):
        with pytest.raises(UserError, match=message):
            find_prefix(prompt, prefixes)


def test_reserved_ids_are_special_tokens_without_a_role(tokenizer: Any, tmp_path: Path) -> None:
    assert reserved_ids(tokenizer) == []
    extra = ["<a>", "<b>", "<turn>"]
    tokenizer.add_special_tokens({"additional_special_tokens": extra}, replace_extra_special_tokens=False)
    tokenizer.chat_template = "<turn>{{ messages[0].content }}"
    found = tokenizer.convert_ids_to_tokens(reserved_ids(tokenizer))
    assert set(found) <= {"<a>", "<b>"}


def test_placeholders_have_a_text_if_the_tokenizer_reads_one(tiny_model: Path, tokenizer: Any, tmp_path: Path) -> None:
    bytes_ = tokenizer.convert_tokens_to_ids(["Ġ", "t"])  # the first one's name is not its text
    exported(tiny_model, tmp_path / "words", reserved=bytes_)
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    tokenizer.add_tokens(["<a>", "<b>"], special_tokens=True)
    tokenizer.save_pretrained(base)
    exported(base, tmp_path / "tokens", reserved=tokenizer.convert_tokens_to_ids(["<a>", "<b>"]))
    (tokens,), (words,) = (read_prefixes(tmp_path / name / "exports") for name in ("tokens", "words"))
    assert words.placeholder_text is None
    read = tokenizer(f"{tokens.placeholder_text}and", add_special_tokens=False)["input_ids"]
    assert tuple(read[: tokens.tokens]) == tokens.placeholder_ids


@pytest.mark.parametrize("kind", ["prompt", "LoRA", "projected prefix", "prefix"])
def test_what_cannot_be_exported_is_refused(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    saved(tiny_model, KINDS[kind](), tmp_path / "adapter")  # a prefix of 5 tokens is too short
    with pytest.raises(UserError, match=r"^export\.adapters\.task: "):
        export_prefixes(tiny_model, tmp_path / "exports", {"task": tmp_path / "adapter"}, reserved=RESERVED)
    assert not (tmp_path / "exports").exists()


def test_a_tokenizer_without_special_tokens_needs_ids(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^export\.reserved: "):
        exported(tiny_model, tmp_path, reserved=None)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([5, 99998], "99998 is no token of "),
        ([-1, 5], "-1 is no token of "),
        ([5, 5, 6], "5 occurs twice; keep one of them"),
    ],
)
def test_reserved_ids_that_are_no_tokens_are_one_line(
    tiny_model: Path, tmp_path: Path, ids: list[int], message: str
) -> None:
    with pytest.raises(UserError, match=rf"^export\.reserved: {message}"):
        exported(tiny_model, tmp_path, reserved=ids)


def test_an_export_has_no_path_of_a_bundled_model(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "portable_name", lambda name: "org/original" if name == str(tiny_model) else name)
    exported(tiny_model, tmp_path)
    assert json.loads((tmp_path / "exports/task.json").read_text())["base_model"]["name"] == "org/original"


def test_damaged_exports_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    exported(tiny_model, tmp_path)
    folder = tmp_path / "exports"
    file = folder / "task.json"
    good = json.loads(file.read_text())

    def refused(message: str, text: str) -> None:
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            read_prefixes(folder)

    refused("is damaged", "{")
    refused("is damaged", "[]")
    refused("is damaged", json.dumps({key: value for key, value in good.items() if key != "layers"}))
    refused("its format is not 2", json.dumps(good | {"format": 1}))
    refused("do not follow from its digest", json.dumps(good | {"placeholder_ids": good["placeholder_ids"][::-1]}))
    refused("of another name", json.dumps(good | {"name": "other"}))
    file.write_text(json.dumps(good))
    (folder / "copy.json").write_text(json.dumps(good | {"name": "copy"}))
    with pytest.raises(UserError, match="the placeholders of task begin with those of copy"):
        read_prefixes(folder)
    (folder / "copy.json").unlink()

    (prefix,) = read_prefixes(folder)
    states = folder / "task.safetensors"
    states.write_bytes(states.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="was changed after"):
        read_states(prefix, folder)
    states.unlink()
    with pytest.raises(UserError, match="no such file"):
        read_states(prefix, folder)
    with pytest.raises(UserError, match="holds no exported prefix"):
        read_prefixes(tmp_path)
