"""Forget: train a finished run again without given rows, and prove by fingerprints that the rows are gone.

    python recipes/forget.py --forget.run runs/mytask/prompt_tuning --forget.rows rows.txt \\
        --forget.output_dir runs/mytask/without_rows

`rows.txt` has places of rows, such as `train.jsonl:17`; `--forget.where '{author: [u17]}'` names rows by a column. Rows
that are nearly the same are forgotten, too. The recipe of the run trains with the same settings and one more,
`task.without`, so that these rows are in no split and in no initial value. `forgotten.json` has the fingerprints, the
proof, both scores and both adapters' checksums. The old folder stays. Delete it yourself, with all copies of its
adapter.

    python recipes/forget.py --forget.check runs/mytask/without_rows

verifies such a folder afterwards. `--resume` continues a call that was stopped.

The exit code is 0 after `forgotten.json` is written or verified, and 2 with one line for an error that you can fix.
"""

import importlib

import softprompts as sp


def main(forget: sp.ForgetConfig) -> None:
    """Train without the rows, and write the proof; or verify one."""
    if forget.check is not None:
        for line in sp.check_forgotten(forget.check):
            print(line)
        return
    old = sp.trained_run(forget)
    recipe = importlib.import_module(old.recipe)  # the recipe beside this one
    plan = sp.plan_forgetting(forget, old, recipe.main)
    if not plan.trained:
        recipe.main(**plan.arguments)
    for line in sp.prove_forgotten(plan):
        print(line)


if __name__ == "__main__":
    sp.cli(main)
