"""Sweep: several soft prompts train side by side over one base model, and validation chooses the best of them.

    accelerate launch recipes/sweep.py --config configs/sentiment/sweep.yaml

The candidates are all combinations of the values in `sweep.grid`: learning rates, seeds, lengths, initial texts. They
share the base model's forward passes and nothing else: each ends where a run of its own would, up to rounding.

Any key of the YAML file is a flag too: `--sweep.grid '{training.learning_rate: [0.01, 0.02]}'`. `--print_config` shows
them all, `--resume` goes on with a sweep that was stopped. Ends with exit code 2 and one line for an error that you can
mend, 130 or 143 after Ctrl-C or SIGTERM (the checkpoints saved), 0 when `result.json` is written.
"""

from dataclasses import asdict

import softprompts as sp


def main(
    model: sp.ModelConfig,
    task: sp.TaskConfig,
    prompt: sp.PromptConfig,
    sweep: sp.SweepConfig,
    training: sp.TrainingConfig,
    evaluation: sp.EvaluationConfig,
    run: sp.RunConfig,
) -> None:
    """Train every candidate, score the best on validation on the test split, save it as a stock PEFT adapter."""
    grid = sp.points(sweep, prompt, training, run)
    rows = sp.load_task(task)
    this = sp.start_run(
        "sweep",
        model=model,
        task=task,
        prompt=prompt,
        sweep=sweep,
        training=training,
        evaluation=evaluation,
        run=run,
    )
    sp.check_method("prompt_tuning", model)
    base, tokenizer = sp.load_base_model(model, this.accelerator.device, rows.choices)
    longest = max(point.prompt.num_virtual_tokens for point in grid)
    data = sp.encode(rows, tokenizer, sp.input_spec(base, longest))

    # The method: the only part that differs between recipes.
    bank = [sp.add_soft_prompt(base, tokenizer, point.prompt, seed=point.seed, task=rows) for point in grid]

    engine = sp.make_engine(bank[0], tokenizer, config=model, data=data, say=this.say, bank=bank[1:])
    best, standings = sp.run_sweep(engine, grid, data, evaluation, this)
    data, tuned = best.data, best.model
    adapter = sp.save_adapter(tuned, this)
    outcome = sp.evaluate_test(engine, data, evaluation, this.accelerator)
    sp.save_sweep(this, standings, training.best_by)
    notes = {"chosen": best.name, "candidates": [asdict(s) for s in standings]}
    sp.save_run(this, rows, tuned, outcome, progress=best.progress, adapter=adapter, notes=notes)


if __name__ == "__main__":
    sp.cli(main)
