"""The monthly cost and return of a task with several methods, from the benchmark's records and your own numbers.

    python -m benchmarks.business --config configs/business/sentiment.yaml

Prints a table, the numbers of requests at which each method pays, and how much each of your numbers matters. A method
is compared with no model at all, and with your present method. Scores and seconds come from the benchmark: a small
model, one task, CPU cores. They show how to compute your case, but do not predict it. Replace `case.task` by the task
most like yours, and measure your own task before you decide.
"""

from __future__ import annotations

import math

from benchmarks.business.case import CaseConfig, Method, advantage, best_of, break_even, month, recorded, sensitivity
from softprompts.config.cli import cli
from softprompts.reports.tables import markdown_table


def main(case: CaseConfig) -> None:
    """Print the case."""
    methods = [recorded(case.task, name, case.metric, answer_tokens=case.answer_tokens) for name in case.methods]
    print("\n\n".join([table(case, methods), *when_it_pays(case, methods), what_matters(case, methods)]))


def table(case: CaseConfig, methods: list[Method]) -> str:
    """Return a table with the methods' monthly money, and the net return one standard deviation below and above."""
    rows = []
    for method in methods:
        found = month(case, method)
        money = [f"{value:,.0f}" for value in (found.tuning, found.serving, found.errors, found.saved, found.net)]
        deviation = "-" if method.deviation is None else f"{100 * method.deviation:.1f}"
        score = f"{100 * method.score:.1f} ± {deviation} %"
        rows.append([method.name, score, f"{method.prompt_tokens:.0f}", *money, _one_deviation(case, method)])
    head = ["method", "score", "prompt tokens", "tuning", "serving", "errors", "saved", "net", "net, one deviation"]
    return (
        f"{case.task}: {case.requests_a_month:,.0f} requests a month, records of the benchmark; an answer counts as "
        f"{methods[0].answer_tokens:.0f} token{'' if methods[0].answer_tokens == 1 else 's'}\n\n"
        f"{markdown_table(head, rows)}"
    )


def _one_deviation(case: CaseConfig, method: Method) -> str:
    """Return the net return one deviation below and above the score, which stays within 0 and 1; "-" for one seed."""
    if method.deviation is None:
        return "-"
    scores = max(0.0, method.score - method.deviation), min(1.0, method.score + method.deviation)
    return " to ".join(f"{month(case, method, score).net:,.0f}" for score in scores)


def when_it_pays(case: CaseConfig, methods: list[Method]) -> list[str]:
    """Return lines: at which numbers of requests each method returns more than it costs, and more than the first."""
    today, *others = methods
    alone = [f"{m.name} returns more than it costs {_spoken(break_even(case, m, None))}." for m in methods]
    return alone + [f"{m.name} returns more than {today.name} {_spoken(break_even(case, m, today))}." for m in others]


def _spoken(requests: tuple[float, float] | None) -> str:
    if requests is None:
        return "at no number of requests"
    fewest, most = requests
    if most < math.inf:
        return f"up to {most:,.0f} requests a month"
    return f"from {fewest:,.0f} requests a month" if fewest else "at any number of requests"


def what_matters(case: CaseConfig, methods: list[Method]) -> str:
    """Return a table of the best method's advantage over today's, and of its net return, by half and twice an input."""
    today, *others = methods
    best = best_of(case, others)
    net = {name: (low, high) for name, low, high in sensitivity(case, best, None)}
    rows = [
        [name, *(f"{value:+,.0f}" for value in (low, high, *net[name]))]
        for name, low, high in sensitivity(case, best, today)
    ]
    over_today, alone = advantage(case, best, today), advantage(case, best, None)
    loses = " Without a model, it is 0, which is more." if alone < 0 else ""
    return (
        f"{best.name} returns {over_today:+,.0f} a month compared with {today.name}. Its own net return "
        f"is {alone:+,.0f}.{loses} With half or twice of one number:\n\n"
        f"{markdown_table(['number', 'half', 'twice', 'net, half', 'net, twice'], rows)}"
    )


if __name__ == "__main__":
    cli(main)
