"""The directives for pages. Each makes Markdown, with links from the root of the repository."""

from __future__ import annotations

from collections.abc import Callable

from scripts.build_docs import messages, recipes, reference, results, scaling, use_cases
from scripts.release import licences

MADE: dict[str, Callable[..., str]] = {
    "recipe": recipes.facts,
    "script": recipes.script,
    "recipe_index": recipes.index,
    "methods": recipes.methods_table,
    "configs": recipes.configs_table,
    "metrics": recipes.metrics,
    "targets": recipes.targets,
    "keys": reference.sections,
    "messages": messages.of_modules,
    "demo": results.demo,
    "overview": results.overview,
    "tasks": results.tasks,
    "tuned": results.tuned,
    "use_case": use_cases.results,
    "further": use_cases.further,
    "voices": use_cases.voices,
    "decide": use_cases.decide,
    "often_claimed": use_cases.often_claimed,
    "benchmark": results.benchmark,
    "papers": results.papers,
    "claims": results.claims,
    "decision": results.decision,
    "sweep": results.sweep,
    "throughput": results.throughput,
    "bench_data": results.bench_data,
    "licences": licences.table,
    "chaos": results.chaos,
    "soak": results.soak,
    "fuzz": results.fuzz,
    "sharding": results.sharding,
    "memorisation": results.memorisation,
    "memorisation_facts": results.memorisation_facts,
    "scaling": scaling.table,
    "scaling_hidden": scaling.hiding,
}
