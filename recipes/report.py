"""Report: one page about your own runs: results, learning curves, costs, comparisons, predictions side by side.

    python recipes/report.py --report.runs '[runs/mytask]'

The page has only the finished runs in the folder and below it. Runs whose settings differ only in the
seed are one method. Each task has a table of results, learning curves, paired comparisons on common test rows, and the
predictions for these rows. Figures show its score by parameters, seconds and memory, with the Pareto front. A run that
is unfinished or damaged is listed and left out.

The page is a single HTML file that needs no network, by default report.html in the first folder. The exit code is 2,
with one line, for an error that you can fix.
"""

import softprompts as sp


def main(report: sp.ReportConfig) -> None:
    """Write the page, and print its path."""
    print(sp.write_report(report))


if __name__ == "__main__":
    sp.cli(main)
