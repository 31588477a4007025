"""Sections of settings for the tools that work with trained adapters."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from softprompts.errors import UserError, check_above_zero, short

READINESS_PACKAGES = (
    "datasketch",
    "detect_secrets",
    "presidio_analyzer",
    "py3langid",
    "spacy",
    "statsmodels",
    "tldextract",
)


def _check_folder(key: str, path: str) -> None:
    """Raise `UserError` for an empty path, which would be the present folder."""
    if not path.strip():
        raise UserError(f"{key}: expected a folder, found an empty text")


@dataclass
class InputConfig:
    """The texts to try, and their form.

    Args:
        text: texts to put into the template; by default the lines of standard input.
        template: prompt template with one `{column}`; by default that of the run that trained the adapter, else the
            text alone.
        choices: score these choices by likelihood; by default the run's choices. A choice without a space at its
            beginning gets that of the run's targets. Without any, or with [], the model generates its prediction.
        chat: put the prompt into the tokenizer's chat template; by default as in the run.
    """

    text: list[str] = field(default_factory=list)
    template: str | None = None
    choices: list[str] | None = None
    chat: bool | None = None


@dataclass
class SamplingConfig:
    """The generation of a prediction.

    Args:
        max_new_tokens: most tokens of a prediction; by default as in the evaluation of the run that trained the
            adapter, else 64.
        temperature: 0 always takes the likeliest token; above 0 tokens are sampled.
        top_p: sample from the likeliest tokens that have this share of the probability.
        seed: seed of the sampling.

    Raises:
        UserError: a number outside its range.
    """

    max_new_tokens: int | None = None
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
    """One of the two models to compare: an adapter, a whole model or the base model, and its prompt.

    Args:
        path: folder of an adapter or of its run, a Hub id of an adapter, or a whole model of full fine-tuning; without
            a path the base model itself.
        any_base: accept an adapter that was trained on a base model of another name.
        task_id: number of the task, for an adapter of PEFT's multitask prompt tuning.
        wording: prompt template in place of `task.prompt`.
        shots: number of few-shot examples from train in each prompt, drawn by the run's seed.
        separator: text between two few-shot examples.
        name: name in the report; by default the path.
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
    """Adapters that vote.

    Args:
        adapters: folders of adapters, or of the runs that wrote them, or Hub ids; all of prompt tuning, or all of
            prefix tuning.
        any_base: accept adapters that were trained on a base model of another name.

    Raises:
        UserError: fewer than two adapters.
    """

    adapters: list[str]
    any_base: bool = False

    def __post_init__(self) -> None:
        if len(self.adapters) < 2:
            raise UserError(f"ensemble.adapters: expected two or more to vote, found {len(self.adapters)}")


@dataclass
class ComposeConfig:
    """Prefixes, or cartridges, that are joined into one.

    Args:
        adapters: folders of adapters, or of the runs that wrote them, or Hub ids: two or more, all prefixes or all
            cartridges, of one base model. Their positions follow in this order.
        output_dir: folder to write, which must be new or empty.

    Raises:
        UserError: no output folder.
    """

    adapters: list[str]
    output_dir: str

    def __post_init__(self) -> None:
        _check_folder("compose.output_dir", self.output_dir)


@dataclass
class ExportConfig:
    """The adapters to export, the format and the folder.

    Args:
        to: `peft` writes stock PEFT folders. `vocabulary` writes the base model with soft prompts as new tokens.
            `prompt_embeds` writes vectors for vLLM's prompt embeddings. `kv_cache` writes the keys and values of
            prefixes, for this project's connector in vLLM. `hub` writes a folder to upload.
        output_dir: folder to write, which must be new or empty. It appears only after all checks have passed.
        adapters: several adapters by task name, in place of adapter.path, e.g.
            {sentiment: runs/sentiment/prompt_tuning}. A name may hold letters, digits, "_", "." and "-".
        rows: validation rows of each adapter's task on which the export is compared with stock PEFT; not with
            `input.text`.
        max_new_tokens: tokens of greedy output that are compared on each row; `peft` and `hub` compare logits only.
        reserved: for `kv_cache`: two or more token ids that no text contains; placeholders are drawn from them. By
            default the tokenizer's special tokens without a role.
        base: name of the base model in the files of `peft` and `hub`, such as a Hub id. By default the Hub id that was
            loaded, or the source of a bundled model. A base model in a local folder requires a name.
        repo_id: for `hub`: the repository, as "user/name"; by default the last part of output_dir.
        license: for `hub`, which requires it: the adapter's licence, by the Hub's name for it, such as apache-2.0.
        license_file: for `hub`: the licence's text. Required, except for the licence of a bundled base model.

    Raises:
        UserError: no output folder; a number that is not above 0; a setting of another form.
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
        _check_folder("export.output_dir", self.output_dir)
        for key in ("rows", "max_new_tokens"):
            check_above_zero(f"export.{key}", getattr(self, key))
        users = {
            "base": ("peft", "hub"),
            "reserved": ("kv_cache",),
            "max_new_tokens": ("vocabulary", "prompt_embeds", "kv_cache"),
            **dict.fromkeys(("repo_id", "license", "license_file"), ("hub",)),
        }
        for key, forms in users.items():
            if getattr(self, key) != getattr(ExportConfig, key) and self.to not in forms:
                raise UserError(f"export.{key}: applies only to export.to {' or '.join(forms)}, found {self.to}")


@dataclass
class OutcomesConfig:
    """The log of a served split test, with the outcomes of its predictions.

    Args:
        log: the file of `serve.split_log`; or a CSV file with the columns `variant`, `outcome` (a number) and, if users
            have several outcomes, `user`, in the order of their arrival. The recipe says which mean is higher; whether
            more is better is yours to say.
        resamples: number of bootstrap resamples for intervals and p values.

    Raises:
        UserError: a number of resamples that is not above 0.
    """

    log: str
    resamples: int = 2000

    def __post_init__(self) -> None:
        check_above_zero("outcomes.resamples", self.resamples)


@dataclass
class PlanConfig:
    """A comparison before it is made: the shares of right answers, or of successful outcomes, to tell apart.

    Args:
        reference: share that one variant is expected to reach, from 0 to 1.
        target: share of the other.
        disagree: share of rows that exactly one of two models has right; the default assumes that their answers do not
            depend on each other. Models that agree more need fewer rows.
        rows: number of present rows, whose power is printed; by default none.

    Raises:
        UserError: a share outside its range; two equal shares; a number of rows that is not above 0.
    """

    reference: float
    target: float
    disagree: float | None = None
    rows: int | None = None

    def __post_init__(self) -> None:
        for name in ("reference", "target"):
            if not 0 < getattr(self, name) < 1:
                raise UserError(f"plan.{name}: expected a share between 0 and 1, found {getattr(self, name)}")
        if self.reference == self.target:
            raise UserError(f"plan.target: {self.target} is also plan.reference; name two different shares")
        low = abs(self.target - self.reference)
        high = min(self.target + self.reference, 2 - self.target - self.reference)
        if self.disagree is not None and not low - 1e-9 <= self.disagree <= high + 1e-9:
            raise UserError(
                f"plan.disagree: with these shares it is from {low:.4g} to {high:.4g}, found {self.disagree}"
            )
        if self.rows is not None:
            check_above_zero("plan.rows", self.rows)


@dataclass
class NeighboursConfig:
    """The neighbours to show.

    Args:
        k: nearest tokens of each virtual token; Lester et al. look at five.
        record: JSON file to write, which must not exist: the neighbours, and the neighbours of as many random vectors.

    Raises:
        UserError: a number of tokens that is not above 0; a record that exists.
    """

    k: int = 5
    record: str | None = None

    def __post_init__(self) -> None:
        check_above_zero("neighbours.k", self.k)
        if self.record and Path(self.record).exists():
            raise UserError(f"neighbours.record: {self.record} exists; name a new file, or move that one away")


@dataclass
class NewConfig:
    """A task to begin.

    Args:
        task: its name, which its folders in configs and runs get: letters, digits, "_", "-" and ".".
        data: its rows: a file, folder or pattern, as for `task.train`.
        text: columns that the model reads; by default those with texts.
        answer: column that it must write; by default one with a usual name, such as label, or one that looks like it.
        output: config file to write, which must not exist yet; by default configs/TASK/prompt_tuning.yaml.

    Raises:
        UserError: a name of a task with other characters than letters, digits, `_`, `-` and `.`.
    """

    task: str
    data: str
    text: list[str] = field(default_factory=list)
    answer: str | None = None
    output: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.-]*", self.task):
            raise UserError(f'new.task: expected letters, digits, "_", "-" and ".", found "{short(self.task)}"')


@dataclass
class ReportConfig:
    """The runs of a report, and its file.

    Args:
        runs: folders of runs, or folders that contain some at any depth.
        output: HTML file to write; by default report.html in the first folder. A page of this recipe is replaced; any
            other file is an error.
        rows: number of rows per task whose predictions are shown side by side. Rows on which methods differ come first.
        resamples: number of bootstrap resamples per comparison.

    Raises:
        UserError: no folder; a number that is not above 0.
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
class ReadinessConfig:
    """The inputs of the checks before training, and the folder of the page.

    Args:
        config: config of a recipe, e.g. configs/own_data/prompt_tuning.yaml.
        plan: file with goal, KPI, owner, legal basis and so on; see configs/own_data/readiness.yaml.
        output: folder for readiness.html and readiness.json; by default the one above `run.output_dir` of the config.
            Files of this recipe are replaced, any other file is an error.
        baseline: record, or folder, of the hard-prompt run to compare with; by default `hard_prompt` in the folder
            above `run.output_dir`, or the record of an included task.
        run_baseline: run recipes/hard_prompt.py first if there is no such record.

    Raises:
        UserError: the packages of the extra `readiness` are missing.
    """

    config: str
    plan: str
    output: str | None = None
    baseline: str | None = None
    run_baseline: bool = False

    def __post_init__(self) -> None:
        if any(find_spec(name) is None for name in READINESS_PACKAGES):
            raise UserError('readiness: needs more packages; install them: in a clone, pip install -e ".[readiness]"')


@dataclass
class GovernanceConfig:
    """The run of a governance record, and where the record goes.

    Args:
        run: folder of a finished run.
        plan: file with goal, KPI, owner, legal basis and so on, as for readiness.
        before: folder of an earlier run of the same task, for the log of changes.
        readiness: record of readiness about the same rows; by default readiness.json in the folder above the run's.
        output_dir: folder for the files; by default `governance` in the run's folder. Files of this recipe are replaced
            if nobody has changed them. `answers.yaml` with the answers of a person is never changed.
        groups: columns of the rows by whose values scores are divided, such as language; by default those with a few
            values; [] for none. The values are in the files.
        base_tokens: tokens on which the base model was trained, if it is not a known one; its operations are 6 x
            parameters x tokens.
        base_flop: operations (FLOP) of the base model's training, in place of `base_tokens`.

    Raises:
        UserError: an empty path; a number that is not above 0; `base_tokens` together with `base_flop`.
    """

    run: str
    plan: str
    before: str | None = None
    readiness: str | None = None
    output_dir: str | None = None
    groups: list[str] | None = None
    base_tokens: float | None = None
    base_flop: float | None = None

    def __post_init__(self) -> None:
        for key in ("run", "plan", "before", "readiness", "output_dir"):
            path = getattr(self, key)
            if path is not None and not path.strip():
                raise UserError(f"governance.{key}: expected a path, found an empty text")
        for key in ("base_tokens", "base_flop"):
            value = getattr(self, key)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"governance.{key}: expected a number above 0, found {value}")
        if self.base_tokens is not None and self.base_flop is not None:
            raise UserError("governance.base_tokens: cannot be combined with governance.base_flop; keep one of them")


@dataclass
class ForgetConfig:
    """A finished run, the rows that it must forget, and the folder of the new run.

    Args:
        run: folder of the finished run.
        output_dir: folder of the new run, which must be new or empty.
        rows: file with one place of a row per line, as messages name them, e.g. data/train.jsonl:17. The end of a path
            suffices if it names a single row, e.g. train.jsonl:17.
        where: the rows whose column has one of these values, e.g. {author: [u17, u23]}. A list has the values of its
            items. With several columns, a row has one of the values in each. With `rows` as well, both are forgotten.
        exact: take the values of `where` in this spelling alone. By default, a row with another spelling of a value
            (letter case, spaces, forms of Unicode characters) ends the recipe with an error, because it may be of the
            same person.
        similarity: rows with this similarity to a named row, or more, are nearly the same, and are forgotten as well.
            It is the Jaccard similarity of the runs of five characters, as in `recipes/readiness.py`.
        any_start: accept a run that started from another adapter, learned from a teacher, or has a text in its settings
            that holds the input of a named row. You state that none of them knows the rows.
        resume: continue a call that was stopped (short: `--resume`).
        check: folder that this recipe wrote. Verify it, and do nothing else.

    Raises:
        UserError: a missing setting; other settings together with `check`; a similarity outside its range.
    """

    run: str | None = None
    output_dir: str | None = None
    rows: str | None = None
    where: dict[str, list[str]] = field(default_factory=dict)
    exact: bool = False
    similarity: float = 0.8
    any_start: bool = False
    resume: bool = False
    check: str | None = None

    def __post_init__(self) -> None:
        given = [
            key for key in ("run", "output_dir", "rows", "where", "exact", "any_start", "resume") if getattr(self, key)
        ]
        if self.check is not None:
            if given:
                raise UserError(
                    f"forget.check: verifies a folder, and excludes forget.{given[0]}; leave out one of them"
                )
            return
        for key, what in (("run", "the folder of a finished run"), ("output_dir", "a new folder")):
            if not (getattr(self, key) or "").strip():
                raise UserError(f"forget.{key}: expected {what}, found nothing")
        if not 0 < self.similarity <= 1:
            raise UserError(f"forget.similarity: expected more than 0 and at most 1, found {self.similarity}")
        if self.rows is None and not self.where:
            raise UserError(
                "forget.rows: name the rows to forget, here by a file of places, or in forget.where by values"
            )


@dataclass
class AdapterConfig:
    """A saved adapter, of this project or of PEFT.

    Args:
        path: folder of the adapter or of its run, or a Hub id; without a path the base model itself.
        any_base: accept an adapter that was trained on a base model of another name.
        task_id: number of the task, for an adapter of PEFT's multitask prompt tuning.
    """

    path: str | None = None
    any_base: bool = False
    task_id: int = 0


@dataclass
class ServeConfig:
    """The served adapters, the address, and the limits of the server.

    Args:
        adapters: adapters by their model name in requests, e.g. {sentiment: runs/sentiment/prompt_tuning}.
        folder: serve every adapter below this folder; its path there is its name. Only adapters below it can be
            added while the server runs.
        any_base: accept adapters that were trained on a base model of another name.
        host: address to listen at; `0.0.0.0` means every address.
        port: port to listen at.
        keys_file: file with one API key per line; without it, everybody who reaches the port may send requests.
        max_batch_rows: most requests in one batch.
        max_batch_positions: most positions of keys and values in one batch; this limits the memory. Scores of choices
            need as much again, for one text at a time.
        max_waiting: most requests in the queue; further ones get status 429.
        max_new_tokens: most output tokens that a request may ask for.
        max_body_bytes: largest body of a request.
        max_connections: most open connections; requests on further ones get status 429.
        client_timeout: seconds that a client has to send a request, or to read a part of its answer.
        timeout: seconds until an unfinished request is ended.
        drain: seconds for the remaining requests after the server was told to stop.
        cache_megabytes: most memory for the keys and values of prompts; prefixes need memory in addition.
        split: model names whose requests are divided among other models by weight, e.g.
            {sentiment: {sentiment-a: 0.5, sentiment-b: 0.5}}.
        split_log: file for one JSON line per request of a split.

    Raises:
        UserError: the packages of the extra `serve` are missing; an empty text; a number outside its range; a split of
            fewer than two models; a log without a split.
    """

    adapters: dict[str, str] = field(default_factory=dict)
    folder: str | None = None
    any_base: bool = False
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
            raise UserError('serve: requires more packages; install them: in a clone, pip install -e ".[serve]"')
        texts = {key: getattr(self, key) for key in ("host", "folder", "keys_file", "split_log")}
        for key, text in (texts | {f"adapters.{name}": path for name, path in self.adapters.items()}).items():
            if text is not None and not text.strip():  # would mean all addresses, no keys, or the present folder
                raise UserError(f"serve.{key}: expected a value, found an empty text; leave it out for the default")
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
