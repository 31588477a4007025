"""Undamaged input of the crash fuzzer: settings of every recipe, tiny models and data, finished and stopped runs."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import mutations
from bases import Tokens, make_tokenizer, save_base
from isolation import run_recipe
from mutations import Tree

import pyarrow
import pyarrow.ipc
from datasets import Dataset
from transformers import AutoModel

SHARDS = 2  # of a split
ROWS = {"train": 12, "validation": 6, "test": 6}
SUFFIXES = (".jsonl", ".csv", ".parquet", ".arrow", ".parquet-shards", ".arrow-shards", ".saved")
TRAINED = ("prompt_tuning", "prefix_tuning", "p_tuning", "multitask_prompt_tuning", "lora", "full_finetuning")
CHECKPOINTED = (*TRAINED, "sweep")
WITH_ADAPTER = ("evaluate", "generate", "compare", "ensemble", "neighbours")
RECIPES = (*CHECKPOINTED, *WITH_ADAPTER, "hard_prompt")
WORDS = ["good", "great", "fine", "lovely", "bad", "awful", "dull", "poor"]


def settings_of(recipe: str, rng: random.Random, suffix: str = ".jsonl") -> Tree:
    """Return valid settings of a recipe for a run of about a second; `suffix` is one of `SUFFIXES`."""
    open_answers = recipe not in ("ensemble", "full_finetuning") and rng.random() < 0.25
    choices: Any = [[" positive", " negative"], {" positive": " good", " negative": " bad"}, "from_train"]
    task: Tree = {
        "prompt": rng.choice(["{text} sentiment", "{text}\nSentiment:"]),
        "target": " {label}",
        **{split: f"task/{split}{suffix}" for split in ROWS},
        "choices": None if open_answers else rng.choice(choices),
        "metrics": ["exact_match"] if open_answers else ["accuracy"],
        "max_length": 100,
    }
    tree: Tree = {"model": {"name_or_path": "base/llama"}, "task": task}
    training = {
        "steps": 4,
        "learning_rate": 0.2,
        "batch_size": 4,
        "eval_every": 2,
        "best_by": "loss",
        "warmup_steps": 1,
    }
    evaluation = {"batch_size": rng.choice([4, 32]), "max_new_tokens": 3, "bootstrap_resamples": 10}
    tuning = {"num_virtual_tokens": 4, "prompt_tuning_init": rng.choice(["RANDOM", "SAMPLE_VOCAB"])}
    alone = ["runs/prompt_tuning", "runs/prefix_tuning/adapter", "runs/p_tuning", "runs/lora"]
    path = rng.choice([*alone, "runs/multitask_prompt_tuning/adapter/books"])
    own: dict[str, Tree] = {
        "prompt_tuning": {
            "prompt": tuning | rng.choice([{}, {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "the film"}])
        },
        "prefix_tuning": {"prefix": {"num_virtual_tokens": 4, **rng.choice([{}, {"init_text": "the film"}])}},
        "p_tuning": {"prompt": {"num_virtual_tokens": 4, "encoder_hidden_size": 16}},
        "multitask_prompt_tuning": {"prompt": {"column": "domain", "factor_steps": 2} | tuning},
        "lora": {"lora": {"r": 4, "lora_alpha": 8}},
        "full_finetuning": {},
        "sweep": {"prompt": tuning, "sweep": {"grid": {"training.learning_rate": [0.1, 0.2], "run.seed": [0]}}},
        "evaluate": {"adapter": {"path": path}},
        "generate": {
            "adapter": {"path": path},
            "input": {"text": ["the film was good", "a dull plot"]},
            "sampling": {"max_new_tokens": 3},
        },
        "compare": {"first": {"path": path}, "second": {"path": "runs/second"}},
        "ensemble": {"ensemble": {"adapters": ["runs/prompt_tuning", "runs/second"]}},
        "neighbours": {"adapter": {"path": "runs/prompt_tuning"}, "neighbours": {"k": 2}},
        "hard_prompt": {"hard": {"wordings": ["{text} sentiment", "{text} is"], "shots": rng.choice([0, 2])}},
    }
    tree |= own[recipe] | ({"training": training} if recipe in CHECKPOINTED else {})
    if recipe in ("generate", "neighbours"):
        del tree["task"]
        return tree
    return tree | {"evaluation": evaluation, "run": {"output_dir": "out", "trackers": []}}


def write_arrow(table: pyarrow.Table, file: Path, stream: bool = False) -> None:
    """Write an Arrow file, or a stream as `datasets` does."""
    with pyarrow.OSFile(str(file), "wb") as sink:
        writer = pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file
        with writer(sink, table.schema) as opened:
            opened.write_table(table)


def make_stock(folder: Path) -> None:
    """Make the models, the data, and finished and stopped runs, which cases copy."""
    for name in ("llama", "t5", "bert"):
        save_base(folder / "base" / name, name, make_tokenizer(Tokens()), positions=256)
    # Without a classifier, because its outputs would have their own names.
    AutoModel.from_pretrained(folder / "base" / "bert").save_pretrained(folder / "base" / "bert")
    (folder / "task").mkdir()
    for split, count in ROWS.items():
        rows = []
        for i in range(count):
            label, domain = ("positive", "negative")[i % 2], ("movies", "books")[i // 2 % 2]
            text = f"the film was {WORDS[i % 2 * 4 + i % 4]} and the plot of {split} {i}"
            rows.append({"text": text, "label": label, "domain": domain})
        table = Dataset.from_list(rows)
        table.to_json(folder / "task" / f"{split}.jsonl")
        table.to_csv(folder / "task" / f"{split}.csv")
        table.to_parquet(folder / "task" / f"{split}.parquet")
        table.save_to_disk(folder / "task" / f"{split}.saved")
        write_arrow(table.data.table, folder / "task" / f"{split}.arrow")
        for number in range(SHARDS):
            shard, name = table.shard(SHARDS, number, contiguous=True), f"part-{number}"
            for kind in ("parquet", "arrow"):
                (folder / "task" / f"{split}.{kind}-shards").mkdir(exist_ok=True)
            shard.to_parquet(folder / "task" / f"{split}.parquet-shards" / f"{name}.parquet")
            rows_of_shard = pyarrow.Table.from_pylist(shard.to_list())
            write_arrow(rows_of_shard, folder / "task" / f"{split}.arrow-shards" / f"{name}.arrow", stream=number == 1)
    jobs: list[tuple[str, str, int | None]] = [("second", "prompt_tuning", None)]
    jobs += [(recipe, recipe, None) for recipe in TRAINED]
    jobs += [(f"stopped_{recipe}", recipe, 3) for recipe in CHECKPOINTED]
    for name, recipe, stop_after in jobs:
        tree = settings_of(recipe, random.Random(1))
        tree["run"] |= {"output_dir": f"runs/{name}", "seed": int(name == "second")}
        mutations.write_yaml(tree, folder / f"{name}.yaml")
        done = run_recipe([recipe, "--config", f"{name}.yaml"], folder, stop_after=stop_after)
        if done.code != (0 if stop_after is None else 143):
            raise RuntimeError(f"{name} ended with {done.code}: {done.err}")
