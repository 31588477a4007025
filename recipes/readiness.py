"""Readiness: whether goal, data, test and baseline are good enough to train, checked before anything is trained.

    python recipes/readiness.py --readiness.config configs/own_data/prompt_tuning.yaml \\
        --readiness.plan configs/own_data/readiness.yaml

Reads the config of a recipe, and a short file with goal, KPI, owner, legal basis and what an error costs. Counts rows
and labels. Looks for duplicates and near-duplicates across splits, contradicting labels, rows that are too long,
languages, personal data, secrets, and leaks by time and author. Says how many test rows the target needs, what the
hard prompt leaves to win, and how long a run takes. `--readiness.run_baseline true` runs the hard prompt first if there
is no record of it.

Writes readiness.html and readiness.json, with green, amber and red points and their remedies. Nothing leaves the
machine. Ends with exit code 0 if no point is red, 1 if one is, and 2 with one line for an error that you can fix.
"""

import sys

import softprompts as sp


def main(readiness: sp.ReadinessConfig) -> None:
    """Write the page, and end with 1 if a point is red."""
    if readiness.run_baseline and (arguments := sp.missing_baseline(readiness)):
        import hard_prompt  # the recipe beside this one

        hard_prompt.main(**arguments)
    if sp.write_readiness(readiness) == "red":
        sys.exit(1)


if __name__ == "__main__":
    sp.cli(main)
