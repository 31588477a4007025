"""Readiness: check before training whether goal, data, test and baseline are good enough.

    python recipes/readiness.py --readiness.config configs/own_data/prompt_tuning.yaml \\
        --readiness.plan configs/own_data/readiness.yaml

It reads the config of a recipe, and a short file with goal, KPI, owner, legal basis and the cost of an error. It counts
rows and labels. It looks for duplicates and near-duplicates across splits, contradicting labels, too long rows,
languages, personal data, secrets, and leaks by time and author. It estimates the test rows that the target needs, the
possible gain over the hard prompt, and the time of a run. `--readiness.run_baseline true` runs the hard prompt first if
it has no record.

The recipe writes readiness.html and readiness.json, with green, amber and red points and their remedies. No data leave
the machine. The exit code is 0 if no point is red, 1 if one is, and 2 with one line for an error that you can fix.
"""

import sys

import softprompts as sp


def main(readiness: sp.ReadinessConfig) -> None:
    """Write the page, and end with 1 if a point is red."""
    if readiness.run_baseline and (arguments := sp.missing_baseline(readiness)):
        import hard_prompt  # the recipe in the same folder

        hard_prompt.main(**arguments)
    if sp.write_readiness(readiness) == "red":
        sys.exit(1)


if __name__ == "__main__":
    sp.cli(main)
