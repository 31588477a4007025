"""Governance: the records of a run that a compliance team can file, with questions that a person must answer.

    python recipes/governance.py --governance.run runs/tickets/prompt_tuning \\
        --governance.plan configs/own_data/readiness.yaml

Reads the record of a finished run and the plan of readiness. Writes a model card with a model index, a dataset card in
Croissant's format, and one record as JSON and as a page. The record has technical documentation by the headings of
Annex IV of the EU AI Act, the compute of the run as a share of its base model's, a note for users, a record of
processing by Article 30 of the GDPR, scores by group, and duties with their dates and sources. With
`--governance.before FOLDER` it also has the changes since an earlier run.

Open questions are marked. Answers go into `answers.yaml`, which is written once and then only read. A file that was
changed by hand is never replaced. Nothing leaves the machine. This is no legal advice. The exit code is 2, with one
line, for an error that you can fix.
"""

import softprompts as sp


def main(governance: sp.GovernanceConfig) -> None:
    """Write the record, and print the path of its page."""
    print(sp.write_governance(governance))


if __name__ == "__main__":
    sp.cli(main)
