"""Ensemble: several trained prompts of one task vote, in the same forward passes (Lester et al. 2021).

    accelerate launch recipes/ensemble.py --config configs/sentiment/ensemble.yaml

Prints the mean of the single prompts, the best one by validation, and the vote. Prompts of one length are also
averaged into one, a soup (Wortsman et al. 2022), which is scored and saved as a stock PEFT adapter in `adapter/`.

Each key of the YAML file is also a flag: `--ensemble.adapters '[runs/a, runs/b]'`. `--print_config` shows all keys.
Plain `python recipes/ensemble.py ...` runs in one process.

The exit code is 0 after `result.json` is written, and 2 with one line for an error that you can fix. After an error,
`accelerate launch` ends with exit code 1, and adds its own traceback unless it gets `--quiet`.
"""

import softprompts as sp


def main(
    model: sp.ModelConfig,
    task: sp.TaskConfig,
    ensemble: sp.EnsembleConfig,
    evaluation: sp.EvaluationConfig,
    run: sp.RunConfig,
) -> None:
    """Score prompts of prompt tuning or prefix tuning singly and together, on one split of a task."""
    rows = sp.load_task(task)
    folders = sp.members(ensemble)
    this = sp.start_run("ensemble", model=model, task=task, ensemble=ensemble, evaluation=evaluation, run=run)
    base, tokenizer = sp.load_base_model(model, this.accelerator.device, rows.choices)

    # The method: the only part that differs between recipes.
    bank = sp.load_members(base, folders, ensemble)
    data = sp.encode(rows, tokenizer, sp.input_spec(base, max(map(sp.virtual_tokens, bank))))

    engine = sp.make_engine(bank[0], tokenizer, config=model, data=data, say=this.say, bank=bank[1:])
    soup = sp.make_soup(engine, data, evaluation, this.accelerator)
    data = sp.behind_each(data, len(bank))
    validation = sp.predict(engine, data.validation, evaluation, this.accelerator, "validating")
    outcome = sp.evaluate_test(engine, data, evaluation, this.accelerator)
    outcome, notes = sp.outcome_of_vote(outcome, validation, data, ensemble, evaluation, soup)
    this.say(sp.summary_of_members(notes))
    if soup:
        sp.save_soup(soup.model, this, ensemble.adapters)
    sp.save_run(this, rows, engine, outcome, notes=notes)


if __name__ == "__main__":
    sp.cli(main)
