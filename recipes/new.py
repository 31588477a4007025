"""New: make a config for your own data from one file, with settings found in the data, checked and timed.

    python recipes/new.py --new.task tickets --new.data data/examples/tickets.jsonl

Columns, choices or open answers, metrics, lengths, batch size and steps come from the rows. You can name columns with
`--new.text` and `--new.answer`. The recipe loads and tokenizes the rows, and times a few steps on this machine. Then it
writes the config, and prints the next two commands. The exit code is 2, with one line, for an error that you can fix.
"""

from dataclasses import replace

import softprompts as sp


def main(model: sp.ModelConfig, new: sp.NewConfig) -> None:
    """Write the config of a prompt-tuning run; print the findings and the next commands."""
    found = sp.propose(new)
    rows = sp.load_task(found.task)
    sp.check_method("prompt_tuning", model)
    base, tokenizer = sp.load_base_model(model, sp.default_device(), rows.choices)
    spec = sp.input_spec(base, found.prompt.num_virtual_tokens)
    found = sp.fit_sizes(found, rows, lambda texts: [len(tokenizer(text).input_ids) for text in texts], spec.room)

    # The check: what the run will do, up to its first steps.
    rows = replace(rows, config=found.task)
    data = sp.encode(rows, tokenizer, spec)
    tuned = sp.add_soft_prompt(base, tokenizer, found.prompt, seed=found.run.seed, task=rows)
    engine = sp.make_engine(tuned, tokenizer, config=model, data=data, say=print)
    seconds = sp.estimated_seconds(engine, data, found.training, found.evaluation)
    sp.write_proposal(found, model)

    counts = ", ".join(f"{len(rows.splits[split]):,} {split}" for split in rows.splits)
    print(f"rows: {counts}; answers: {f'{len(rows.choices)} choices' if rows.choices else 'written'}")
    print(f"columns: {found.columns}")
    for note in found.notes:
        print(f"note: {note}")
    print(f"written: {found.file}; a run takes about {max(1, round(seconds / 60))} min on this machine. Next:")
    print(f"  accelerate launch recipes/prompt_tuning.py --config {found.file}")
    print(f"  python recipes/generate.py --adapter.path {found.run.output_dir}")


if __name__ == "__main__":
    sp.cli(main)
