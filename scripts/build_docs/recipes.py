"""Generate parts of recipe pages from the recipe, its configs, the table of methods and the records."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path
from typing import Any

from benchmarks.report.frame import results_of
from benchmarks.report.tables import metric
from scripts.build_docs.pages import ROOT
from scripts.build_docs.records import RESULTS, TASKS, grids, record_of_config, runs, shipped
from scripts.build_docs.reference import anchor, sections_of
from softprompts.errors import UserError
from softprompts.methods.catalog import METHODS
from softprompts.reports.pages.frame import metrics_of
from softprompts.reports.tables import markdown_table, size
from softprompts.runs.record import Result

from jinja2 import Environment, FileSystemLoader, StrictUndefined

RECIPES = ROOT / "recipes"
KINDS = ("decoder", "encoder-decoder", "encoder")
WRITTEN = ("zero_shot", "few_shot")  # a benchmark's rows from `hard_prompt`


def facts(name: str) -> str:
    """Return the generated part of a recipe's page.

    Raises:
        UserError: the recipe is unknown.
    """
    if not (RECIPES / f"{name}.py").is_file():
        raise UserError(f"no recipe {name}")
    title, command, rest = docstring(name)
    method = METHODS.get(name)
    return _rendered(
        "recipe",
        name=name,
        title=title,
        command=command,
        rest=rest,
        method=method,
        sections=[(section, anchor(kind)) for section, kind in sections_of(name).items()],
        configs=[(config, first_line(config)) for config in configs_of(name)],
        results=results_table(name) if method else "",
        seeds=seeds_table(name) if method else "",
    )


def script(name: str) -> str:
    """Return a recipe's script and its first config, each folded."""
    text = (RECIPES / f"{name}.py").read_text(encoding="utf-8")
    return _rendered("script", name=name, script=text, example=_example(name))


def _rendered(template: str, **values: Any) -> str:
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined)
    return environment.get_template(f"{template}.md.j2").render(**values).strip()


def docstring(name: str) -> tuple[str, str, str]:
    """Return the first line of a recipe's docstring, its command, and the rest as Markdown."""
    text = ast.get_docstring(ast.parse((RECIPES / f"{name}.py").read_text(encoding="utf-8"))) or ""
    title, *parts = text.split("\n\n")
    commands = [p for p in parts if p.startswith("    ")]
    rest = [p for p in parts if not p.startswith("    ")]
    command = "\n".join(line.removeprefix("    ") for line in "\n\n".join(commands).splitlines())
    return title, command, "\n\n".join(rest)


def configs_of(name: str) -> list[str]:
    """Return the shipped configs of a recipe, by the command at their head, with the smallest task first."""
    found = []
    for path in sorted((ROOT / "configs").glob("*/*.yaml")):
        if path.parent.name in ("accelerate", "benchmarks", "cluster", "serving"):  # they name a recipe as an example
            continue
        head = "".join(line for line in path.read_text(encoding="utf-8").splitlines(True) if line.startswith("#"))
        if re.search(rf"\brecipes/{name}\.py\b", head):
            found.append(path.relative_to(ROOT).as_posix())
    return sorted(found, key=lambda path: (not path.startswith("configs/sentiment/"), path))


def first_line(config: str) -> str:
    """Return the first sentence of a config's head."""
    head = []
    for line in (ROOT / config).read_text(encoding="utf-8").removeprefix("#!/bin/bash\n").splitlines():
        if not line.startswith("# "):
            break
        head.append(line.removeprefix("# "))
    return re.split(r"(?<=[.;:])(?<!et al\.)\s", " ".join(head))[0].rstrip(".;:")


def _example(name: str) -> tuple[str, str]:
    """Return the path and the text of a page's config; empty for a recipe without one."""
    paths = configs_of(name)
    return (paths[0], (ROOT / paths[0]).read_text(encoding="utf-8")) if paths else ("", "")


def results_table(name: str) -> str:
    """Return a row for each task that has a record of the recipe's shipped config."""
    rows = [_result_row(task, record) for task in TASKS if (record := shipped(task).get(name))]
    head = ["task", "metric", "test, % (95 % interval)", "trained", "saved", "training", "memory"]
    return markdown_table(head, rows) if rows else ""


def _result_row(task: str, result: Result) -> list[str]:
    first = next(iter(result.metrics))
    score, cost = result.metrics[first], result.cost
    trained = [
        f"{result.parameters['trainable']:,}" if result.training else "0",
        size(cost["adapter_bytes"]) if result.training else "nothing",
        f"{cost['seconds_training']:.0f} s" if result.training else "none",
    ]
    link = f"[{task}]({record_of_config(task, result.recipe, RESULTS).relative_to(ROOT)})"
    interval = f"{100 * score.value:.1f} ({100 * score.low:.1f} to {100 * score.high:.1f})"
    return [link, first, interval, *trained, f"{cost['peak_memory_gib']:.1f} GiB"]


def seeds_table(name: str) -> str:
    """Return the recipe's rows in the benchmark of the three tasks: means and deviations over seeds."""
    rows = []
    for task, benchmark in grids().items():
        for method in WRITTEN if name == "hard_prompt" else (name,):
            if method in benchmark.cells:
                own = runs().loc[task].loc[[method]]
                shown = metric(metrics_of(results_of(benchmark))[0])
                rows.append([task, benchmark.label(method), shown.name, shown.spread(own), str(len(own))])
    return markdown_table(["task", "method", "metric", "test, %, mean ± deviation", "seeds"], rows) if rows else ""


def index() -> str:
    """Return a table of all recipes: those of the table of methods first, in its order, then the tools."""
    tools = sorted(path.stem for path in RECIPES.glob("*.py") if path.stem not in METHODS)
    return markdown_table(
        ["recipe", "what it does"],
        [[f"[{name}](docs/recipes/{name}.md)", docstring(name)[0]] for name in [*METHODS, *tools]],
    )


def methods_table() -> str:
    """Return the table of methods: trained and saved parameters, PEFT's config, kinds of base models."""
    head = ["method", "PEFT config", "trained", "saved", *KINDS]
    return markdown_table(head, [_method_row(method) for method in METHODS.values()])


def _method_row(method: Any) -> list[str]:
    kinds = ["yes" if kind in method.kinds else "no" for kind in KINDS]
    link = f"[{method.label}](docs/recipes/{method.name}.md)"
    return [link, f"`{method.peft}`" if method.peft else "none", method.trains, method.saves, *kinds]


@functools.cache
def configs_table(folder: str) -> str:
    """Return the shipped configs of a folder, each with the first sentence of its head."""
    paths = sorted(path for path in (ROOT / "configs" / folder).iterdir() if path.suffix in (".yaml", ".sbatch"))
    rows = [(path.relative_to(ROOT).as_posix(), path.name) for path in paths]
    return markdown_table(["file", "purpose"], [[f"[{name}]({path})", first_line(path)] for path, name in rows])


def metrics() -> str:
    """Return a table of the metrics: the first line of each module."""
    found = []
    for path in sorted((ROOT / "src/softprompts/metrics/modules").glob("[a-z]*.py")):
        document = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found.append([f"`{path.stem}`", document.partition("\n")[0].partition(": ")[2] or document])
    return markdown_table(["metric", "description"], found)


def targets() -> str:
    """Return a table of the make targets, as `make help` lists them."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.findall(r"^([a-z-]+):.*## (\S.*)$", makefile, flags=re.MULTILINE)
    return markdown_table(["command", "what it does"], [[f"`make {name}`", what] for name, what in found])
