"""Sections of settings for tools that take finished prompts: score, compare, vote, try out, look inside."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from softprompts.errors import UserError, check_above_zero


@dataclass
class InputConfig:
    """What to try.

    Args:
        text: texts to put into the template; by default the lines of standard input.
        template: prompt template with one `{column}`; by default that of the run which trained the adapter, else the
            text as it is.
        choices: score these answers by likelihood; by default those of the run, if it names them, else the model
            writes its answer.
        chat: put the prompt into the tokenizer's chat template; by default as in the run.
    """

    text: list[str] = field(default_factory=list)
    template: str | None = None
    choices: list[str] | None = None
    chat: bool | None = None


@dataclass
class SamplingConfig:
    """How an answer is written.

    Args:
        max_new_tokens: longest answer.
        temperature: 0 takes the likeliest token each time; above 0 tokens are drawn.
        top_p: draw among the likeliest tokens that hold this share of the probability.
        seed: seed of the draws.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_above_zero("sampling.max_new_tokens", self.max_new_tokens)
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"sampling.temperature: expected 0 or more, found {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"sampling.top_p: expected a number above 0 and at most 1, found {self.top_p}")


@dataclass
class ContestantConfig:
    """One of the two that are compared: a saved adapter, a whole model or the base model, and what stands before it.

    Args:
        path: folder of an adapter or of the run which wrote it, a Hub id of one, or a whole model that full fine-tuning
            left; without one the base model stands alone.
        any_base: take an adapter although it was trained on a base model of another name.
        task_id: for an adapter of PEFT's multitask prompt tuning, which task's prompt to take.
        wording: prompt template in place of `task.prompt`.
        shots: solved examples from train in front of every row, drawn by the run's seed.
        separator: what stands between two examples.
        name: what the report calls it; by default its path.
    """

    path: str | None = None
    any_base: bool = False
    task_id: int = 0
    wording: str | None = None
    shots: int = 0
    separator: str = "\n\n"
    name: str | None = None


@dataclass
class EnsembleConfig:
    """Adapters that answer together.

    Args:
        adapters: folders of adapters, or of the runs that wrote them, or Hub ids; all of prompt tuning, or all of
            prefix tuning.
        any_base: take them although they were trained on a base model of another name.
    """

    adapters: list[str]
    any_base: bool = False

    def __post_init__(self) -> None:
        if len(self.adapters) < 2:
            raise UserError(f"ensemble.adapters: expected two or more to vote, found {len(self.adapters)}")


@dataclass
class ComposeConfig:
    """Prefixes, or cartridges, that become one.

    Args:
        adapters: folders of adapters, or of the runs that wrote them, or Hub ids: two or more, all prefixes or all
            cartridges of one base model. Their order is that of the positions.
        output_dir: folder to write, which must be new or empty.
    """

    adapters: list[str]
    output_dir: str


@dataclass
class ExportConfig:
    """What to export, and where to.

    Args:
        to: `peft` writes stock PEFT folders. `vocabulary` writes the base model with soft prompts as new tokens.
            `prompt_embeds` writes vectors for vLLM's prompt embeddings. `kv_cache` writes the keys and values of
            prefixes, for this project's connector in vLLM. `hub` writes a folder to upload.
        output_dir: folder to write, which must be new or empty. It appears only after all checks have passed.
        adapters: several adapters by task name, in place of adapter.path, e.g.
            {sentiment: runs/sentiment/prompt_tuning}. A name may hold letters, digits, "_", "." and "-".
        rows: validation rows of each adapter's task on which the export is compared with stock PEFT.
        max_new_tokens: tokens of greedy output that are compared on each row.
        reserved: for `kv_cache`: two or more token ids that no text holds; placeholders are drawn from them. By default
            the tokenizer's special tokens that have no role.
        base: name of the base model in the files of `peft` and `hub`, such as a Hub id. By default the Hub id that was
            loaded, or the source of a bundled model. A base model in a local folder needs it.
        repo_id: for `hub`: the repository, as "user/name"; by default the name of output_dir.
        license: for `hub`: the adapter's licence, by the Hub's name for it; by default that of a bundled base model.
        license_file: for `hub`: the licence's text; by default LICENSE in the base model's folder.
    """

    to: Literal["peft", "vocabulary", "prompt_embeds", "kv_cache", "hub"]
    output_dir: str
    adapters: dict[str, str] = field(default_factory=dict)
    rows: int = 8
    max_new_tokens: int = 16
    reserved: list[int] | None = None
    base: str | None = None
    repo_id: str | None = None
    license: str | None = None
    license_file: str | None = None

    def __post_init__(self) -> None:
        for key in ("rows", "max_new_tokens"):
            check_above_zero(f"export.{key}", getattr(self, key))
        users = {
            "base": ("peft", "hub"),
            "reserved": ("kv_cache",),
            **dict.fromkeys(("repo_id", "license", "license_file"), ("hub",)),
        }
        for key, forms in users.items():
            if getattr(self, key) is not None and self.to not in forms:
                raise UserError(f"export.{key}: applies only to export.to {' or '.join(forms)}, found {self.to}")


@dataclass
class OutcomesConfig:
    """Answers of a served split, and what became of them.

    Args:
        log: file that `serve.split_log` named.
        resamples: of the bootstrap that gives intervals and p values.
    """

    log: str
    resamples: int = 2000

    def __post_init__(self) -> None:
        check_above_zero("outcomes.resamples", self.resamples)


@dataclass
class NeighboursConfig:
    """What to show.

    Args:
        k: nearest tokens of each virtual token; Lester et al. look at five.
        record: JSON file to write, which must not exist yet: the neighbours, and those of as many random vectors.
    """

    k: int = 5
    record: str | None = None

    def __post_init__(self) -> None:
        check_above_zero("neighbours.k", self.k)
        if self.record and Path(self.record).exists():
            raise UserError(f"neighbours.record: {self.record} exists; name a new file, or move that one away")


@dataclass
class ReportConfig:
    """Which runs, and where the page goes.

    Args:
        runs: folders of runs, or folders that hold some at any depth.
        output: HTML file to write; by default report.html in the first folder. A page of this recipe is replaced, any
            other file is an error.
        rows: rows of each task whose answers the page shows side by side, those on which methods differ first.
        resamples: bootstrap resamples of each comparison.
    """

    runs: list[str]
    output: str | None = None
    rows: int = 200
    resamples: int = 2000

    def __post_init__(self) -> None:
        if not self.runs:
            raise UserError("report.runs: expected one folder or more, found none")
        for key in ("rows", "resamples"):
            check_above_zero(f"report.{key}", getattr(self, key))


@dataclass
class AdapterConfig:
    """A saved adapter, ours or anyone's from PEFT.

    Args:
        path: its folder, that of the run which wrote it, or a Hub id; without one the base model stands alone.
        any_base: take it although it was trained on a base model of another name.
        task_id: for an adapter of PEFT's multitask prompt tuning, which task's prompt to take.
    """

    path: str | None = None
    any_base: bool = False
    task_id: int = 0


@dataclass
class ServeConfig:
    """What is served, to whom, and within which limits.

    Args:
        adapters: adapters by the model name that requests give, e.g. {sentiment: runs/sentiment/prompt_tuning}.
        folder: serve every adapter below this folder, named after its place there. Only adapters below it can be
            added while the server runs.
        host: address to listen at; `0.0.0.0` is every one.
        port: port to listen at.
        keys_file: file with one API key a line; without it everybody who reaches the port may ask.
        max_batch_rows: most requests that are answered side by side.
        max_batch_positions: most positions of their keys and values together; bounds the memory.
        max_waiting: most requests in the queue; the next one gets status 429.
        max_new_tokens: longest answer that a request may ask for, in tokens.
        max_body_bytes: largest body of a request.
        max_connections: most open connections; requests on further ones get status 429.
        client_timeout: seconds that a client may take to send a request, or to read a part of its answer.
        timeout: seconds until an answer that is not complete ends.
        drain: seconds that a server which is told to stop gives to the requests that it has.
        cache_megabytes: most memory for the keys and values of prompts; a prefix is kept beside it.
        split: model names that share their traffic out over others by weight, e.g.
            {sentiment: {sentiment-a: 0.5, sentiment-b: 0.5}}.
        split_log: file that gets one JSON line for each request of a split.
    """

    adapters: dict[str, str] = field(default_factory=dict)
    folder: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    keys_file: str | None = None
    max_batch_rows: int = 32
    max_batch_positions: int = 32768
    max_waiting: int = 128
    max_new_tokens: int = 512
    max_body_bytes: int = 2**20
    max_connections: int = 2048
    client_timeout: float = 30.0
    timeout: float = 120.0
    drain: float = 30.0
    cache_megabytes: int = 256
    split: dict[str, dict[str, float]] = field(default_factory=dict)
    split_log: str | None = None

    def __post_init__(self) -> None:
        if find_spec("fastapi") is None:
            raise UserError('serve: needs more packages; install them by pip install "softprompts[serve]"')
        counts = ("max_batch_rows", "max_batch_positions", "max_waiting", "max_new_tokens", "max_body_bytes")
        for key in (*counts, "max_connections", "client_timeout", "timeout", "drain", "cache_megabytes"):
            check_above_zero(f"serve.{key}", getattr(self, key))
        if not 0 <= self.port < 65536:
            raise UserError(f"serve.port: expected 0 to 65535, found {self.port}")
        for name, shares in self.split.items():
            for variant, share in shares.items():
                check_above_zero(f"serve.split.{name}.{variant}", share)
            if len(shares) < 2:
                raise UserError(f"serve.split.{name}: expected two or more model names, found {len(shares)}")
        if self.split_log and not self.split:
            raise UserError("serve.split_log: applies only with serve.split")
