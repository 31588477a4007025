"""Keep trained soft prompts of benchmarks as a library: adapters to try, to serve and to start other trainings from.

    python -m benchmarks.library --library.benchmarks+=product

For each benchmark, the library has the adapter of the first seed of each method, as stock PEFT saves it, and the
settings of its run. `index.json` and `README.md` list them. Only an adapter whose run has a record is kept. One that is
kept stays as it is: to replace it, remove its folder first.

Exit codes: 0 if all are kept; 2 and one line for an error that you can fix.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.grid.settings import Benchmark, load_benchmark, seeds_of
from softprompts.adapters.checks import WEIGHTS
from softprompts.adapters.configs import CONFIG, read_config
from softprompts.config.cli import cli
from softprompts.config.paths import ADAPTER
from softprompts.data.sources import EMBEDDED_PREFIX
from softprompts.errors import UserError, nearest
from softprompts.evaluation.library import write_index
from softprompts.models.identity.base_model import RECORD
from softprompts.reports.tables import markdown_table
from softprompts.runs.folders import CONFIG_FILE, RESULT_FILE
from softprompts.runs.record import load_result
from softprompts.system.files import write_atomically

SCORE_FILE = "score.json"
HEAD = ("folder", "virtual tokens", "bytes", "test score of this run", "data")
TOP = """# Trained soft prompts

`make library` made this page. Each folder has the adapter of a benchmark's first seed, as stock PEFT saves it, and the
settings of its run. `results/benchmarks` has the records of the runs. The base model is the bundled
SmolLM2-135M-Instruct. To try one, with each line of standard input as a text for its template:

```bash
python recipes/generate.py --adapter.path results/library/{example}
```

A new training can start from one: [transfer](../../docs/training.md#transfer-and-a-library-of-soft-prompts). The score
is that of one run; [all comparisons](../report/tables.md) has all seeds.
"""


@dataclass
class LibraryConfig:
    """Where the adapters come from, and where they go.

    Args:
        benchmarks: names of the benchmarks whose adapters to keep.
        methods: methods of these benchmarks; a benchmark may lack some.
        records: folder of the records of benchmarks.
        runs: folder of their runs.
        output: folder of the library.
    """

    benchmarks: list[str]
    methods: list[str] = field(default_factory=lambda: ["prompt_tuning", "prefix_tuning"])
    records: str = "results/benchmarks"
    runs: str = "runs/benchmarks"
    output: str = "results/library"


def main(library: LibraryConfig) -> None:
    """Keep the adapters that the library lacks, and write its index and its page."""
    known = sorted(file.parent.name for file in Path(library.records).glob("*/grid.json"))
    output = Path(library.output)
    for name in library.benchmarks:
        if name not in known:
            raise UserError(f'library.benchmarks: "{name}"{nearest(name, known)}')
        benchmark = load_benchmark(Path(library.records) / name)
        for method in library.methods:
            if method in benchmark.cells:
                keep(benchmark, method, Path(library.runs), output)
    write_index(str(output))
    write_atomically(output / "README.md", page(output))


def keep(benchmark: Benchmark, method: str, runs: Path, output: Path) -> None:
    """Copy the adapter of a method's first seed, unless it is kept already.

    Raises:
        UserError: the run has no record or is gone; the record is another run's; the adapter is no soft prompt.
    """
    kept, seed = output / benchmark.name / method, seeds_of(benchmark.grid, method)[0]
    if kept.exists():
        return
    run = runs / benchmark.name / method / f"seed{seed}"
    again = f"make bench GRID={benchmark.name} ONLY={method}"
    if seed not in benchmark.cells[method]:
        raise UserError(f"library.benchmarks: {benchmark.name}: {method}, seed {seed} has no record; make it: {again}")
    if not (run / RESULT_FILE).is_file():
        raise UserError(f"library.runs: no such run: {run}; move its record away, and make it again: {again}")
    if load_result(run / RESULT_FILE).finished != benchmark.cells[method][seed].result.finished:
        raise UserError(f"library.runs: {run} is not the run of the record in {benchmark.name}/{method}")
    adapter = run / ADAPTER
    if not (adapter / CONFIG).is_file() or not read_config(adapter).is_prompt_learning:
        raise UserError(f"library.methods: {method} of {benchmark.name} leaves no soft prompt")
    made = kept.with_name(f".{kept.name}.part")  # renamed at the end, so that half a copy is never taken for a whole
    shutil.rmtree(made, ignore_errors=True)
    (made / ADAPTER).mkdir(parents=True)
    for file in (CONFIG, WEIGHTS, RECORD):
        shutil.copy(adapter / file, made / ADAPTER / file)
    (made / ADAPTER / WEIGHTS).chmod(0o644)
    shutil.copy(run / CONFIG_FILE, made / CONFIG_FILE)
    metric, interval = next(iter(benchmark.cells[method][seed].result.metrics.items()))
    # Beside the adapter, because the record may become that of a later run.
    write_atomically(made / SCORE_FILE, json.dumps({"metric": metric, "value": interval.value, "seed": seed}) + "\n")
    made.rename(kept)
    print(f"kept {kept}", flush=True)


def page(output: Path) -> str:
    """Return a page that lists the adapters of a library, with the scores of their runs on test."""
    rows = []
    for file in sorted(output.glob(f"*/*/{ADAPTER}/{CONFIG}")):
        folder = file.parents[1]
        score = json.loads((folder / SCORE_FILE).read_text(encoding="utf-8"))
        settings = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        tokens = read_config(file.parent).num_virtual_tokens  # type: ignore[attr-defined]
        rows.append([
            f"{folder.parent.name}/{folder.name}",
            str(tokens),
            f"{(file.parent / WEIGHTS).stat().st_size:,}",
            f"{score['metric']} {100 * score['value']:.1f} %",
            _data(settings["task"]["dataset"]),
        ])  # fmt: skip
    return f"{TOP.format(example=rows[0][0])}\n{markdown_table(HEAD, rows)}\n"


def _data(dataset: str) -> str:
    """Return links to the card and the licence of an embedded dataset."""
    folder = f"../../data/{dataset.removeprefix(EMBEDDED_PREFIX)}"
    return f"[card]({folder}/README.md), [licence]({folder}/LICENSE)"


if __name__ == "__main__":
    cli(main)
