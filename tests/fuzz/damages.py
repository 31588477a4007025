"""The damage in a case of the crash fuzzer, by area: settings, flags, data, an adapter, a checkpoint, a folder."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import files
import launches
import mutations
from isolation import Finished, run_recipe
from mutations import Tree
from subjects import ROWS

# Fields of an adapter's config that no tensor contradicts: with another value it is another adapter.
FREE = ("lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")
CONFIG = "config.yaml"
Way = Callable[[random.Random, Path], str]


@dataclass
class Case:
    """A command, its input, and the damage to that input.

    Args:
        rng: generator that chooses the damage.
        recipe: name of the recipe.
        tree: its settings, written to CONFIG.
        flags: its flags in addition to --config.
        stdin: its standard input.
        encoding: encoding of its terminal.
        environment: variables that a launcher sets.
        owned: folder whose files it may change, except those in `mine`.
        mine: the user's own folders in `owned`.
        done: descriptions of the damage.
        expected: the required outcome of each damage, as in `mutations`.
    """

    rng: random.Random
    recipe: str
    tree: Tree
    flags: list[str] = field(default_factory=list)
    stdin: bytes = b""
    encoding: str = "utf-8"
    environment: dict[str, str] = field(default_factory=dict)
    owned: str | None = None
    mine: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)

    @property
    def command(self) -> list[str]:
        """The command, as arguments of `run_recipe`."""
        return [self.recipe, "--config", CONFIG, *self.flags]

    @property
    def what(self) -> str:
        """The damage, in one line."""
        return f"{'; '.join(self.done)} {self.flags}"[-400:]

    @property
    def verdict(self) -> str:
        """The outcome that all damages together require."""
        wanted = set(self.expected) or {"runs"}
        if len(wanted) == 1:
            return wanted.pop()
        return "same" if wanted <= {"same", "refused"} else "any"

    def run(self, folder: Path) -> Finished:
        """Run the command in a folder with its input."""
        return run_recipe(self.command, folder, self.stdin, self.encoding, environment=self.environment)


def damage(case: Case, area: str, folder: Path) -> None:
    """Add one damage."""
    try:
        case.expected.append(AREAS[area](case, folder))
    except Exception:
        if not case.expected:
            raise
        case.expected.append("any")  # it is damaged already and cannot be read


def _settings(case: Case, folder: Path) -> str:
    before = json.dumps(case.tree, default=str)
    expected = mutations.change_tree(case.rng, case.tree)
    case.done.append(f"{before}\n  is now {json.dumps(case.tree, default=str)}")
    mutations.write_yaml(case.tree, folder / CONFIG)
    return expected


def _yaml(case: Case, folder: Path) -> str:
    ways = [mutations.change_yaml, mutations.change_yaml, mutations.damage_file, files.recode]
    return _one_of(case, ways, folder, CONFIG)


def _flags(case: Case, folder: Path) -> str:
    return mutations.change_flags(case.rng, case.flags)


def _data(case: Case, folder: Path) -> str:
    """Damage a file of data, or the standard input."""
    if "task" not in case.tree:
        case.stdin = mutations.damage(case.rng, case.stdin)
        return "any"
    name = case.tree["task"][case.rng.choice(list(ROWS))]
    place = folder / name
    if place.is_dir() and case.rng.random() < 0.3:
        case.done.append(f"change_shards {name}")
        return files.change_shards(case.rng, place)
    if place.is_dir():
        name = str(case.rng.choice(sorted(p for p in place.iterdir() if p.is_file())).relative_to(folder))
    own: dict[str, Way] = {".jsonl": files.change_jsonl, ".csv": files.change_csv, ".json": files.change_json}
    own |= {".parquet": files.change_table, ".arrow": files.change_table}
    ways: list[Way] = [own[Path(name).suffix]] * 3 + [mutations.damage_file]
    if place.is_dir():  # a part of a table: other rows may remain
        _one_of(case, ways, folder, name)
        return "any"
    return _one_of(case, [*ways, files.recode] if name.endswith((".jsonl", ".csv")) else ways, folder, name)


def _one_of(case: Case, ways: Sequence[Way], folder: Path, name: str) -> str:
    way = case.rng.choice(ways)
    case.done.append(f"{way.__name__} {name}")
    return way(case.rng, folder / name)


def _adapter(case: Case, folder: Path) -> str:
    """Damage one of the adapters that the case reads."""
    rng = case.rng
    place = Path(rng.choice(re.findall(r"runs/[\w/]+", json.dumps(case.tree))))
    place = place if (folder / place / "adapter_config.json").is_file() else place / "adapter"
    config, weights = place / "adapter_config.json", place / "adapter_model.safetensors"
    beside = place.parent / "config.json"  # the settings of the run
    file = rng.choice([config] * 4 + [weights] * 5 + [beside] * (folder / beside).is_file())
    case.done.append(str(file))
    if file == beside:
        files.change_json(rng, folder / beside)
        return "any" if case.recipe == "generate" else "same"  # it reads its template there
    if rng.random() < 0.1:
        (folder / file).unlink()
        return "refused"
    return files.change_tensors(rng, folder / file) if file == weights else files.change_json(rng, folder / file, FREE)


def _checkpoint(case: Case, folder: Path) -> str:
    """Damage a checkpoint, put a file next to it, or change the inputs of the run."""
    rng = case.rng
    place = rng.choice(sorted(folder.glob("out/checkpoints/**/state.json"))).parent
    how = rng.choice(["json", "json", "tensors", "tensors", "missing", "beside", "data", "weights", "flags"])
    case.done.append(f"{place.relative_to(folder)} {how}")
    if how == "json":
        file = rng.choice([place / "state.json", folder / "out" / "config.json"])
        return files.change_json(rng, file, ("seconds", "cpu_seconds"))
    if how == "tensors":
        expected = files.change_tensors(rng, rng.choice(sorted(place.glob("*.safetensors"))))
        return "same" if expected == "refused" else expected  # it may use another checkpoint
    if how == "missing":
        rng.choice(sorted(place.iterdir())).unlink()
        return "same"
    if how == "beside":
        names = [f"{place.name}-backup", "step-x", "step-", "step-99.old", "step_9", "notes"]
        copy = place.with_name(rng.choice(names))
        shutil.copytree(place, copy)
        case.mine.append(f"{copy.relative_to(folder)}/")
        return "runs"
    if how == "data":
        file = folder / case.tree["task"]["train"]
        text = file.read_text(encoding="utf-8")
        relabelled = text.replace('"negative"', '"positive"')
        file.write_text(rng.choice([relabelled, text.split("\n", 4)[4]]), encoding="utf-8")
    elif how == "weights":
        weights = folder / "base" / "llama" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    else:
        case.flags += rng.choice([["--run.seed", "5"], ["--training.steps", "5"], ["--task.prompt", "{text}"]])
    return "refused"


def _launch(case: Case, folder: Path) -> str:
    """Launch with a file of accelerate in which a key or a value has changed."""
    case.done.append("launch file")
    case.environment = launches.drawn(case.rng, folder / "launch.yaml")
    case.done.append(str(case.environment))
    return "any"


def _folder(case: Case, folder: Path) -> str:
    """Put a file or folder at the place of the output."""
    rng, out = case.rng, folder / "out"
    if "run" not in case.tree or case.done:
        return "runs" if "run" not in case.tree else "any"
    how = rng.choice(["theirs", "records", "file", "name", "link", "resume", "logs", "taken"])
    case.done.append(how)
    if how in ("theirs", "records", "logs"):
        out.mkdir()
    if how == "theirs":
        name = rng.choice(["notes.txt", "adapter", "README.md", ".hidden", "result.json", "checkpoints"])
        (out / name).write_text("mine")
        return "refused"
    if how == "records":
        name = rng.choice(["config.json", "result.json", "compare.json"])
        (out / name).write_text(rng.choice(["{}", "[]", '{"model_type": "llama"}', "", "{", '{"recipe": "mine"}']))
        case.flags += rng.choice([[], ["--resume"]])
    elif how == "file":
        out.write_text("mine")
        return "refused"
    elif how == "name":
        case.flags += [
            "--run.output_dir",
            rng.choice(["a/b/c", "ü b", "out/", "./out/../o", "x" * 300, "o\n", "~/x", ""]),
        ]
    elif how == "link":
        out.symlink_to(rng.choice(["nowhere", "task", "out"]))
    elif how == "resume":
        case.flags.append("--resume")
    elif how == "logs":
        (out / "logs").mkdir()
        (out / "logs" / "mine.txt").write_text("mine")
    else:
        taken = ["base/llama", "task", ".", CONFIG, "/dev/null/x", "/proc/x"]
        case.flags += ["--run.output_dir", rng.choice(taken)]
        return "refused"
    return "any"


AREAS: dict[str, Callable[[Case, Path], str]] = {
    "settings": _settings,
    "yaml": _yaml,
    "flags": _flags,
    "data": _data,
    "adapter": _adapter,
    "checkpoint": _checkpoint,
    "folder": _folder,
    "launch": _launch,
}
