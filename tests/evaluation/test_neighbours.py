"""Virtual tokens with the embeddings of known tokens are found again, with their neighbours in the vocabulary."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from helpers import cli_in_process, load_base, load_tuned, run_recipe
from method_runs import saved_by_peft
from softprompts.adapters.loading import load_adapter
from softprompts.config.tools import AdapterConfig, NeighboursConfig
from softprompts.errors import UserError
from softprompts.evaluation.neighbours import (
    Neighbours,
    nearest_tokens,
    random_vectors,
    repeated,
    table_of,
    virtual_token_embeddings,
)

import pytest
import torch
from peft import (
    LoraConfig,
    MultitaskPromptTuningConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
)

COMMON: dict[str, Any] = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 3}
WORDS = (" film", " great", " plot")


def near(folder: Path, values: torch.Tensor, k: int) -> list[Neighbours]:
    base, tokenizer = load_base(folder)
    return nearest_tokens(values, base, tokenizer, k)


def rows(folder: Path, words: Sequence[str]) -> torch.Tensor:
    """Return the embeddings of words that are one token each."""
    base, tokenizer = load_base(folder)
    ids = [tokenizer(word, add_special_tokens=False).input_ids for word in words]
    assert [len(i) for i in ids] == [1] * len(ids)
    weight: Any = base.get_input_embeddings().weight
    return weight[torch.tensor(ids)[:, 0]].detach()


@pytest.mark.parametrize("scale", [1.0, 0.01, 40.0])
def test_a_virtual_token_at_a_word_is_nearest_to_it_whatever_its_length(tiny_model: Path, scale: float) -> None:
    found = near(tiny_model, scale * rows(tiny_model, WORDS), 4)
    assert [one.tokens[0] for one in found] == list(WORDS)
    for one in found:
        assert len(set(one.tokens)) == 4
        assert one.similarities == sorted(one.similarities, reverse=True)
        assert one.similarities[0] == pytest.approx(1.0, abs=1e-5)
        assert one.similarities[1] < 0.9


def test_similarities_are_those_of_pytorch_token_by_token(tiny_model: Path) -> None:
    base, tokenizer = load_base(tiny_model)
    weight: Any = base.get_input_embeddings().weight
    torch.manual_seed(0)
    values = torch.randn(2, 32)
    for value, one in zip(values, near(tiny_model, values, 3), strict=True):
        cosines = torch.cosine_similarity(value[None], weight)
        best = sorted(range(len(tokenizer)), key=lambda i: -cosines[i])[:3]
        names = [(tokenizer.decode([i]), tokenizer.convert_ids_to_tokens(i)) for i in best]
        assert one.tokens == [name if "\ufffd" in text else text for text, name in names]
        assert one.similarities == pytest.approx(cosines[best].tolist(), abs=1e-5)
        apart = weight - weight[: len(tokenizer)].mean(dim=0)
        pairs = [torch.cosine_similarity(apart[a], apart[b], dim=0).item() for a in best for b in best if a != b]
        assert one.cluster == pytest.approx(sum(pairs) / 6, abs=1e-5)


def test_one_neighbour_is_a_cluster_of_its_own_and_no_more_than_there_are_are_shown(tiny_model: Path) -> None:
    assert [one.cluster for one in near(tiny_model, rows(tiny_model, WORDS), 1)] == [1.0] * 3
    (one,) = near(tiny_model, rows(tiny_model, WORDS[:1]), 10**6)
    assert len(one.tokens) == len(load_base(tiny_model)[1])


def test_a_virtual_token_at_zero_is_near_nothing(tiny_model: Path) -> None:
    (one,) = near(tiny_model, torch.zeros(1, 32), 3)
    assert one.similarities == [0.0, 0.0, 0.0]


def test_random_vectors_lie_where_the_words_do(tiny_model: Path) -> None:
    base, tokenizer = load_base(tiny_model)
    weight: Any = base.get_input_embeddings().weight
    with torch.no_grad():
        weight[:] = torch.randn_like(weight) * torch.linspace(0.1, 3.0, 32) + torch.arange(32.0)
    drawn = random_vectors(base, tokenizer, 20_000)
    assert drawn.shape == (20_000, 32)
    words = weight[: len(tokenizer)].detach()
    torch.testing.assert_close(drawn.std(dim=0) / words.std(dim=0), torch.ones(32), rtol=0.05, atol=0)
    torch.testing.assert_close(
        (drawn.mean(dim=0) - words.mean(dim=0)) / words.std(dim=0), torch.zeros(32), rtol=0, atol=0.05
    )
    assert torch.equal(random_vectors(base, tokenizer, 3), random_vectors(base, tokenizer, 3))
    assert not torch.equal(random_vectors(base, tokenizer, 3), random_vectors(base, tokenizer, 3, seed=1))


def test_words_near_several_virtual_tokens_are_counted_once_each() -> None:
    made = [
        Neighbours([" good", "Good", " film"], [0.9, 0.8, 0.7], 0.5),
        Neighbours(["plot", " film"], [0.9, 0.1], 0.5),
        Neighbours(["GOOD", " ", " film"], [0.5, 0.4, 0.3], 0.5),
        Neighbours([" ", "bad"], [0.5, 0.4], 0.5),
    ]
    assert list(repeated(made).items()) == [("film", [1, 2, 3]), ("good", [1, 3])]
    text = table_of(made)
    assert text.splitlines()[1] == "    1     0.50  ' good' 0.90  'Good' 0.80  ' film' 0.70"
    assert text.endswith("near several virtual tokens:\n  film: 1, 2, 3\n  good: 1, 3")
    assert "several" not in table_of(made[3:])


@pytest.mark.parametrize("task", [0, 1])
def test_what_multitask_prompt_tuning_holds_is_that_of_the_task(tiny_model: Path, tmp_path: Path, task: int) -> None:
    config = MultitaskPromptTuningConfig(**COMMON, num_tasks=2, num_ranks=1)
    tuned = saved_by_peft(tiny_model, config, tmp_path / "saved")
    model = load_adapter(load_base(tiny_model)[0], AdapterConfig(str(tmp_path / "saved")))
    found = virtual_token_embeddings(model, task)
    torch.testing.assert_close(found, tuned.get_prompt(1, torch.tensor([task]))[0])
    assert not torch.equal(found, virtual_token_embeddings(model, 1 - task))


def test_what_an_encoder_has_written_is_found(tiny_model: Path, tmp_path: Path) -> None:
    tuned = saved_by_peft(tiny_model, PromptEncoderConfig(**COMMON, encoder_hidden_size=8), tmp_path / "saved")
    model = load_adapter(load_base(tiny_model)[0], AdapterConfig(str(tmp_path / "saved")))
    torch.testing.assert_close(virtual_token_embeddings(model), tuned.get_prompt(1)[0])


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False), "LORA"),
        (PrefixTuningConfig(**COMMON), "PREFIX_TUNING"),
    ],
)
def test_an_adapter_without_virtual_tokens_is_one_line(
    tiny_model: Path, tmp_path: Path, config: PeftConfig, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    saved_by_peft(tiny_model, config, tmp_path / "saved")
    code, said, errors = cli_in_process(command(tiny_model, tmp_path / "saved"), capfd)
    message = (
        f"an adapter of type {kind} has no embeddings of virtual tokens; expected prompt tuning, P-tuning or multitask"
    )
    assert (code, said) == (2, "")
    assert errors == [f"error: adapter.path: {message} prompt tuning"]


def test_no_adapter_and_no_neighbours_are_refused(tiny_model: Path) -> None:
    with pytest.raises(UserError, match=r"^adapter.path: expected an adapter with virtual tokens$"):
        virtual_token_embeddings(load_base(tiny_model)[0])
    with pytest.raises(UserError, match=r"^neighbours.k: expected a number above 0, found 0$"):
        NeighboursConfig(0)


def command(model: Path, adapter: Path, *more: str) -> list[str]:
    return ["recipes/neighbours.py", "--model.name_or_path", str(model), "--adapter.path", str(adapter), *more]


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A soft prompt whose virtual tokens are known words, saved by PEFT."""
    folder = tmp_path_factory.mktemp("known") / "adapter"
    model, _ = load_tuned(tiny_model, tokens=3)
    with torch.no_grad():
        model.prompt_encoder["default"].embedding.weight.copy_(rows(tiny_model, WORDS))
    model.save_pretrained(str(folder))
    return folder


def test_the_recipe_prints_a_line_for_each_virtual_token(
    adapter: Path, tiny_model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, said, errors = cli_in_process(command(tiny_model, adapter, "--neighbours.k", "2"), capfd)
    assert (code, errors) == (0, [])
    lines = said.splitlines()[1:4]
    assert [line.split()[0] for line in lines] == ["1", "2", "3"]
    for line, word in zip(lines, WORDS, strict=True):
        assert f"{word!r} 1.00" in line
        assert line.count("'") == 4


def test_a_record_holds_the_neighbours_and_those_of_chance_and_is_not_written_over(
    adapter: Path, tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / "near.json"
    wanted = command(tiny_model, adapter, "--neighbours.k", "2", "--neighbours.record", str(file))
    assert cli_in_process(wanted, capfd)[0] == 0
    record = json.loads(file.read_text(encoding="utf-8"))
    base, tokenizer = load_base(tiny_model)
    assert record["learned"] == [asdict(one) for one in near(tiny_model, rows(tiny_model, WORDS), 2)]
    assert record["random"] == [
        asdict(one) for one in nearest_tokens(random_vectors(base, tokenizer, 3), base, tokenizer, 2)
    ]
    assert (record["model"], record["adapter"], record["k"]) == (str(tiny_model), str(adapter), 2)
    code, said, errors = cli_in_process(wanted, capfd)
    assert (code, said) == (2, "")
    assert errors == [f"error: neighbours.record: {file} exists; name a new file, or move that one away"]
    assert json.loads(file.read_text(encoding="utf-8")) == record


@pytest.mark.slow
def test_the_recipe_as_a_process_of_its_own_shows_five_and_writes_nothing(adapter: Path, tiny_model: Path) -> None:
    before = {p: p.read_bytes() for p in adapter.iterdir()}
    done = run_recipe(command(tiny_model, adapter))
    assert done.returncode == 0, done.stderr
    base, tokenizer = load_base(tiny_model)
    assert done.stdout == table_of(nearest_tokens(rows(tiny_model, WORDS), base, tokenizer, 5)) + "\n"
    assert {p: p.read_bytes() for p in adapter.iterdir()} == before
