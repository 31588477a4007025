"""Hard prompts, zero-shot or with few-shot examples, without training.

    accelerate launch recipes/hard_prompt.py --config configs/sentiment/hard_prompt.yaml --hard.shots 8

Every prompt template is scored on validation, and the best on test. Each key of the YAML file is also a flag;
`--print_config` shows all keys. Plain `python recipes/hard_prompt.py ...` runs in one process.

The exit code is 0 after `result.json` is written, and 2 with one line for an error that you can fix. After an error,
`accelerate launch` ends with exit code 1, and adds its own traceback unless it gets `--quiet`.
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
    """Choose a hard prompt on validation, and score it on the test split."""
    rows = sp.load_task(task)
    this = sp.start_run("hard_prompt", model=model, task=task, hard=hard, evaluation=evaluation, run=run)
    sp.check_method("hard_prompt", model)
    base, tokenizer = sp.load_base_model(model, this.accelerator.device, rows.choices)

    # The method: the only part that differs between recipes.
    spec = sp.input_spec(base)
    candidates = [
        sp.encode(t, tokenizer, spec, needs_end=not evaluation.stop)
        for t in sp.written_tasks(rows, hard, this.seed, evaluation.split)
    ]

    engine = sp.make_engine(base, tokenizer, config=model, data=candidates[0], say=this.say)
    best, wordings = sp.choose_wording(engine, candidates, hard, evaluation, this.accelerator)
    data = candidates[best]
    outcome = sp.evaluate_test(engine, data, evaluation, this.accelerator)
    notes = {"chosen": best, "wordings": [asdict(w) for w in wordings]}
    sp.save_run(this, data.task, base, outcome, notes=notes)


if __name__ == "__main__":
    sp.cli(main)
