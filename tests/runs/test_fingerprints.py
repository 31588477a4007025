"""What a checkpoint is bound to is noticed when it changes, and only then."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers import METHODS, load_base, make_task, method_engine
from softprompts.config.sections import ModelConfig
from softprompts.encoding.documents import with_soft_prompts
from softprompts.encoding.tokenization import encode
from softprompts.models.identity.base_model import weights_digests
from softprompts.models.identity.facts import facts_of
from softprompts.models.loading import InputSpec, input_spec, load_base_model, own_ends
from softprompts.runs.fingerprints import changes, inputs_of, other_versions

import pytest
import torch
from peft import LoraConfig, get_peft_model

ROWS = [("the film was good", " good"), ("the film was bad", " bad")]


@pytest.mark.parametrize("method", METHODS)
def test_a9_weights_are_those_of_the_base_under_every_method(tiny_model: Path, method: str) -> None:
    alone = weights_digests(load_base(tiny_model)[0])
    assert weights_digests(method_engine(tiny_model, method).model) == alone


def test_a9_a_classifier_that_begins_at_random_is_left_out(tiny_encoder: Path) -> None:
    found = set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        base, _ = load_base_model(ModelConfig(str(tiny_encoder)), torch.device("cpu"), ["a", "b"])
        new_parts = facts_of(base).new_parts
        assert new_parts
        found.add(str(weights_digests(base, new_parts)))
        config = LoraConfig(task_type="SEQ_CLS", target_modules=["query"], modules_to_save=list(new_parts))
        found.add(str(weights_digests(get_peft_model(base, config), new_parts)))
    assert len(found) == 1


@pytest.mark.parametrize("place", [0, 17, -1])
def test_a9_other_weights_are_noticed(tiny_model: Path, place: int) -> None:
    base, _ = load_base(tiny_model)
    before = weights_digests(base)
    for parameter in base.parameters():
        with torch.no_grad():
            parameter.view(-1)[place] += 0.5
        assert weights_digests(base) != before
        with torch.no_grad():
            parameter.view(-1)[place] -= 0.5
    other = copy.deepcopy(base)
    other.lm_head = torch.nn.Linear(32, base.config.vocab_size, bias=True)
    assert weights_digests(other) != before


def test_a9_a_large_weight_is_looked_at_from_end_to_end() -> None:
    model = torch.nn.Linear(3000, 3000, bias=False)
    before = weights_digests(model)
    with torch.no_grad():
        model.weight[1400:1500] += 1
    assert weights_digests(model) != before


def test_a9_quantised_weights_are_looked_at_as_they_are(wider_model: Path) -> None:
    config = ModelConfig(str(wider_model), dtype="float32", quantization="nf4")
    base, _ = load_base_model(config, torch.device("cpu"))
    before = weights_digests(base)
    packed = next(p for p in base.parameters() if p.dtype == torch.uint8)
    packed.data[0] ^= 1
    assert before.keys() == {"mixed"}
    assert weights_digests(base) != before


def inputs(
    model: Path, change: Callable[[Any, Any, Any], None] | None = None, written: bool = False, **task: Any
) -> dict[str, Any]:
    """Return the fingerprints of a small task; `change` gets its rows, base model and tokenizer first."""
    base, tokenizer = load_base(model)
    made = make_task(task.pop("rows", ROWS), None if written else (" good", " bad"), **task)
    if change:
        change(made, base, tokenizer)
    spec = InputSpec(room=200, ends=own_ends(base))
    return json.loads(json.dumps(inputs_of(encode(made, tokenizer, spec), base)))


def another_template(_: Any, __: Any, tokenizer: Any) -> None:
    tokenizer.add_tokens(["film"])


def another_epsilon(_: Any, base: Any, __: Any) -> None:
    base.config.rms_norm_eps = 0.1


def half_precision(_: Any, base: Any, __: Any) -> None:
    base.to(torch.bfloat16)


def another_weight(_: Any, base: Any, __: Any) -> None:
    with torch.no_grad():
        next(base.parameters())[0, 0] += 1


def another_end(_: Any, base: Any, __: Any) -> None:
    base.generation_config.eos_token_id = [1, 7]


ALL = ("train", "validation", "test")


@pytest.mark.parametrize(
    ("change", "task", "said"),
    [
        (None, {}, []),
        (None, {"rows": ROWS[:1]}, [f"{split} had 2 rows and now has 1" for split in ALL]),
        (None, {"rows": ROWS[::-1]}, [f"{split} has other rows, in the same number (2)" for split in ALL]),
        (
            another_template,
            {},
            [f"{split} has the same rows, but other tokens or tasks" for split in ALL],
        ),
        (another_epsilon, {}, ["the base model's rms_norm_eps was 1e-06 and is now 0.1"]),
        (half_precision, {}, ["the base model MODEL was in float32 and is now in bfloat16"]),
        (another_weight, {}, ["the base model MODEL has other weights"]),
        (another_end, {}, []),
    ],
)
def test_a9_what_has_changed_is_named(tiny_model: Path, change: Any, task: Any, said: list[str]) -> None:
    before = inputs(tiny_model)
    assert changes(before, inputs(tiny_model, change, **task)) == [s.replace("MODEL", str(tiny_model)) for s in said]


def test_other_ends_of_written_answers_are_named(tiny_model: Path) -> None:
    before = inputs(tiny_model, written=True)
    now = inputs(tiny_model, another_end, written=True)
    assert changes(before, now) == ["generated predictions ended at the tokens [1] and now end at [1, 7]"]
    del before["ends"]
    assert changes(before, now) == [], "a checkpoint of an older version"


def test_another_tokenizer_that_gives_the_same_tokens_is_named(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    before = inputs(folder)
    file = folder / "tokenizer.json"
    read = json.loads(file.read_text(encoding="utf-8"))
    decoder = {
        "type": "Sequence",
        "decoders": [read["decoder"], {"type": "Strip", "content": " ", "start": 1, "stop": 0}],
    }
    file.write_text(json.dumps(read | {"decoder": decoder}), encoding="utf-8")
    now = inputs(folder)
    assert changes(before, now) == ["the tokenizer of the base model has another decoder"]
    del before["base"]["tokenizer"]
    assert changes(before, now) == [], "a checkpoint of an older version"


def encoder_inputs(folder: Path) -> dict[str, Any]:
    base, tokenizer = load_base_model(ModelConfig(str(folder)), torch.device("cpu"), ["good", "bad"])
    return json.loads(
        json.dumps(inputs_of(encode(make_task(ROWS, (" good", " bad")), tokenizer, input_spec(base)), base))
    )


def test_what_the_outputs_of_a_bases_own_classifier_mean_is_named(tiny_encoder: Path, tmp_path: Path) -> None:
    base, tokenizer = load_base_model(ModelConfig(str(tiny_encoder)), torch.device("cpu"), ["good", "bad"])
    for part in (base, tokenizer):
        part.save_pretrained(tmp_path)
    before = encoder_inputs(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    swapped = {"id2label": {"0": "bad", "1": "good"}, "label2id": {"bad": 0, "good": 1}}
    (tmp_path / "config.json").write_text(json.dumps(config | swapped), encoding="utf-8")
    assert changes(before, encoder_inputs(tmp_path)) == ["the base model's id2label.0 was good and is now bad"]


def test_what_the_outputs_of_a_new_classifier_mean_is_the_tasks(tiny_encoder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_encoder, tmp_path / "model"))
    before = encoder_inputs(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"id2label": {"0": "b", "1": "a"}}), encoding="utf-8")
    assert changes(before, encoder_inputs(folder)) == []


def test_a9_rows_that_belong_to_other_tasks_are_other_data(tiny_model: Path) -> None:
    base, tokenizer = load_base(tiny_model)
    data = encode(make_task(ROWS), tokenizer, InputSpec(room=200))
    numbers = iter((0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 0, 1))
    before, now = (inputs_of(with_soft_prompts(data, lambda _: next(numbers)), base) for _ in range(2))
    assert changes(before, now) == ["validation has the same rows, but other tokens or tasks"]


def test_a9_a_metric_or_schema_with_other_content_is_named(tiny_model: Path, tmp_path: Path) -> None:
    base, tokenizer = load_base(tiny_model)
    data = encode(make_task(ROWS), tokenizer, InputSpec(room=200))
    metric = tmp_path / "length.py"
    found = []
    for text in ("one", "two"):
        metric.write_text(text)
        task = replace(data.task, metrics=("accuracy", str(metric)), schema={"title": text})
        found.append(inputs_of(replace(data, task=task), base))
    assert changes(*found) == ["the content of task.schema differs", f"the file of the metric {metric} has changed"]


def test_a9_another_version_is_said_and_no_change(tiny_model: Path) -> None:
    before, now = inputs(tiny_model), inputs(tiny_model)
    before["code"] |= {"commit": "abc", "torch": "1.0", "of_the_past": "1"}
    del before["base"]["config"]["rms_norm_eps"]  # a field that came with another version of transformers
    assert changes(before, now) == []
    assert other_versions(before, now) == [
        f"commit was abc and is now {now['code']['commit']}",
        f"torch was 1.0 and is now {torch.__version__}",
    ]


def test_other_data_for_metrics_are_named(tiny_model: Path) -> None:
    before = inputs(tiny_model)
    now = before | {"metric_data": "another"}
    assert changes(before, now) == ["the content of task.metric_data differs"]
    del before["metric_data"]
    assert changes(before, now) == [], "a checkpoint of an older version"
