"""Hard prompts: written instructions, zero-shot or with solved examples, nothing trained.

    accelerate launch recipes/hard_prompt.py --config configs/sentiment/hard_prompt.yaml --hard.shots 8

Every wording is tried on validation; the best is scored on test. Any key of the YAML file is a flag too;
`--print_config` shows them all. Plain `python recipes/hard_prompt.py ...` runs on one process.

Ends with exit code 2 and one line for an error that you can mend, 0 when `result.json` is written.
"""

from dataclasses import asdict

import softprompts as sp


def main(
    model: sp.ModelConfig,
    task: sp.TaskConfig,
    hard: sp.HardPromptConfig,
    evaluation: sp.EvaluationConfig,
    run: sp.RunConfig,
) -> None:
    """Choose a written prompt on validation and score it on the test split."""
    rows = sp.load_task(task)
    this = sp.start_run("hard_prompt", model=model, task=task, hard=hard, evaluation=evaluation, run=run)
    sp.check_method("hard_prompt", model)
    base, tokenizer = sp.load_base_model(model, this.accelerator.device, rows.choices)

    # The method: the only part that differs between recipes.
    spec = sp.input_spec(base)
    candidates = [
        sp.encode(t, tokenizer, spec, needs_end=not evaluation.stop) for t in sp.written_tasks(rows, hard, this.seed)
    ]

    engine = sp.make_engine(base, tokenizer, config=model, data=candidates[0], say=this.say)
    best, wordings = sp.choose_wording(engine, candidates, hard, evaluation, this.accelerator)
    data = candidates[best]
    outcome = sp.evaluate_test(engine, data, evaluation, this.accelerator)
    notes = {"chosen": best, "wordings": [asdict(w) for w in wordings]}
    sp.save_run(this, data.task, base, outcome, notes=notes)


if __name__ == "__main__":
    sp.cli(main)
