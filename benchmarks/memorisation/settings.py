"""The settings of the probe, and their check."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from softprompts.errors import UserError, check_above_zero, nearest

NAME, SECRET = "{name}", "{secret}"
MOST_CANARIES, MOST_DIGITS = 100, 18  # made-up names of `canaries`; digits of a number that range() takes
JOB, SCORES = "job.json", "scores.json"  # what is to be scored, and what came out


@dataclass
class MemorisationConfig:
    """Canaries in a copy of train, and the methods that are trained on it.

    Args:
        task: folder of the shipped configs, one per method.
        pattern: columns of a canary's row. {name} is another made-up name in each canary, {secret} its digits.
        target: the column that holds the secret, which training and scoring read as the target.
        digits: digits of a secret; the secrets are all numbers of this length.
        insertions: copies of a canary in train. 0 is the control: such a canary is scored, and never trained on.
        canaries: canaries of each number of copies.
        rows: rows of the task's train that are drawn for the copy.
        steps: training steps, the same for all methods.
        candidates: random secrets that each canary's secret is ranked among.
        methods: recipes to train.
        seeds: seeds of the runs. Each seed also draws other rows, names, secrets and candidates.
        settings: further flags of every recipe, by key.
        runs: folder of the copies and runs.
        record: file of the results.
    """

    task: str
    pattern: dict[str, str]
    target: str
    digits: int = 9
    insertions: list[int] = field(default_factory=lambda: [0, 1, 4, 16])
    canaries: int = 4
    rows: int = 316
    steps: int = 100
    candidates: int = 1000
    methods: list[str] = field(default_factory=lambda: ["prompt_tuning", "prefix_tuning", "lora", "full_finetuning"])
    seeds: list[int] = field(default_factory=lambda: [0])
    settings: dict[str, Any] = field(default_factory=dict)
    runs: str = "runs/memorisation"
    record: str = "results/memorisation.json"

    def __post_init__(self) -> None:
        for key in ("digits", "canaries", "rows", "steps", "candidates"):
            check_above_zero(f"memorisation.{key}", getattr(self, key))
        shown = [column for column, text in self.pattern.items() if SECRET in text]
        if shown != [self.target]:
            raise UserError(
                f"memorisation.pattern: expected {SECRET} in the column {self.target} alone, found it in "
                f"{', '.join(shown) or 'none'}"
            )
        if not any(NAME in text for column, text in self.pattern.items() if column != self.target):
            raise UserError(
                f"memorisation.pattern: no column of the input holds {NAME}, so that canaries would have one input"
            )
        if min(self.insertions, default=-1) < 0:
            raise UserError(f"memorisation.insertions: expected numbers from 0, found {self.insertions}")
        self._check_limits()
        if self.candidates + len(self.insertions) * self.canaries > 10**self.digits:
            raise UserError(f"memorisation.candidates: {self.digits} digits do not make so many different secrets")

    def _check_limits(self) -> None:
        if len(self.insertions) * self.canaries > MOST_CANARIES:
            raise UserError(f"memorisation.canaries: at most {MOST_CANARIES} over all insertions, for lack of names")
        if self.digits > MOST_DIGITS:
            raise UserError(f"memorisation.digits: expected at most {MOST_DIGITS}, found {self.digits}")
        if not self.methods:
            raise UserError("memorisation.methods: expected one or more recipes")
        for method in self.methods:
            if not Path("configs", self.task, f"{method}.yaml").is_file():
                valid = [file.stem for file in Path("configs", self.task).glob("*.yaml")]
                raise UserError(
                    f'memorisation.methods: configs/{self.task} has no config of "{method}"{nearest(method, valid)}'
                )
