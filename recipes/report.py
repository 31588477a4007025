"""Report: one page about runs of your own: results, learning curves, costs, comparisons, answers side by side.

    python recipes/report.py --report.runs '[runs/mytask]'

Every finished run in the folder and below it is on the page, and nothing else. Runs whose settings differ by their seed
alone are one method. Each task has a table of results, figures of its score against parameters, seconds and memory with
the Pareto front, learning curves, paired comparisons on the test rows that methods have in common, and their answers to
these rows. A run that is not finished or damaged is named and left out.

The page is a single HTML file that needs no network, by default report.html in the first folder. Ends with exit code 2
and one line for an error that you can fix.
"""

import softprompts as sp


def main(report: sp.ReportConfig) -> None:
    """Write the page, and print where it is."""
    print(sp.write_report(report))


if __name__ == "__main__":
    sp.cli(main)
