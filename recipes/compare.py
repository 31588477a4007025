"""Compare: two contestants on the same rows, and what the difference between them is worth.

    accelerate launch recipes/compare.py --config configs/sentiment/compare.yaml \\
        --first.path runs/sentiment/prompt_tuning --second.path runs/sentiment/lora

A contestant is a saved adapter, ours or anyone's from PEFT, a whole model that full fine-tuning left, or a written
prompt on the base model (`--second.wording`, `--second.shots 8`). Both answer one split of a task, or of rows of your
own; `compare.md` shows both scores, the paired difference with its interval, and the rows that one answers better.

    python recipes/compare.py --outcomes.log log.jsonl

compares adapters that share a model name's traffic in recipes/serve.py, by the outcomes in its log: no model is loaded.

Any key of the YAML file is a flag too; `--print_config` shows them all. Plain `python recipes/compare.py ...` is one
process.

Ends with exit code 2 and one line for an error that you can mend, 0 when `compare.json` is written.
"""

import softprompts as sp


def main(
    model: sp.ModelConfig,
    task: sp.TaskConfig,
    first: sp.ContestantConfig,
    second: sp.ContestantConfig,
    evaluation: sp.EvaluationConfig,
    run: sp.RunConfig,
) -> None:
    """Score two contestants on one split of a task, and compare their answers."""
    rows = sp.load_task(task)
    this = sp.start_run("compare", model=model, task=task, first=first, second=second, evaluation=evaluation, run=run)
    sides = sp.contestants(first, second, model, rows, evaluation, this.seed)
    outcomes = []
    for side in sides:
        model = side.model  # the base model that the settings name, or the whole model that competes
        base, tokenizer = sp.load_base_model(model, this.accelerator.device, rows.choices)

        # The method: the only part that differs between recipes.
        tuned = sp.load_contestant(base, side)
        data = sp.encode(side.task, tokenizer, sp.input_spec(base, sp.virtual_tokens(tuned)))
        data = sp.with_soft_prompt(data, side.adapter.task_id)

        engine = sp.make_engine(tuned, tokenizer, config=model, data=data, say=this.say)
        outcome = sp.evaluate_test(engine, data, evaluation, this.accelerator)
        outcomes.append(outcome)
        # The other gets a base model anew: nothing of this one, LoRA's layers say, is left in it.
        del base, tuned, engine
    sp.save_contest(this, rows, sides, outcomes, evaluation)


def served(outcomes: sp.OutcomesConfig) -> None:
    """Compare adapters by what became of their answers."""
    for line in sp.compare_outcomes(outcomes.log, outcomes.resamples):
        print(line)


if __name__ == "__main__":
    sp.cli(main, outcomes=served)
