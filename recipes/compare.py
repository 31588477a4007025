"""Compare: two models on the same rows, with a test of the difference.

    accelerate launch recipes/compare.py --config configs/sentiment/compare.yaml \\
        --first.path runs/sentiment/prompt_tuning --second.path runs/sentiment/lora

A model is a saved adapter of this project or of PEFT, or a whole model of full fine-tuning. It can also be a hard
prompt on the base model (`--second.wording`, `--second.shots 8`). Both predict one split of a task, or your own rows.
`compare.md` shows both scores, the paired difference with its interval, and the rows that one of them predicts better.

    python recipes/compare.py --outcomes.log log.jsonl

compares adapters that share the requests of a model name in recipes/serve.py, by the outcomes in its log. A CSV file of
variants works as well. You may look at the e-value as often as you like.

    python recipes/compare.py --plan.reference 0.80 --plan.target 0.85

prints how many rows or users such a comparison needs, before it is made.

Each key of the YAML file is also a flag; `--print_config` shows all keys. Plain `python recipes/compare.py ...` runs in
one process.

The exit code is 0 after `compare.json` is written, and 2 with one line for an error that you can fix. After an error,
`accelerate launch` ends with exit code 1, and adds its own traceback unless it gets `--quiet`.
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
    """Score two models on one split of a task, and compare their predictions."""
    rows = sp.load_task(task)
    this = sp.start_run("compare", model=model, task=task, first=first, second=second, evaluation=evaluation, run=run)
    sides = sp.contestants(first, second, model, rows, evaluation, this.seed)
    outcomes = []
    for side in sides:
        model = side.model  # the base model in the settings, or a whole model of the comparison
        base, tokenizer = sp.load_base_model(model, this.accelerator.device, rows.choices)

        # The method: the only part that differs between recipes.
        tuned = sp.load_contestant(base, side)
        spec = sp.input_spec(base, sp.virtual_tokens(tuned))
        data = sp.encode(side.task, tokenizer, spec, needs_end=not evaluation.stop)
        data = sp.with_soft_prompt(data, side.adapter.task_id)

        engine = sp.make_engine(tuned, tokenizer, config=model, data=data, say=this.say)
        outcome = sp.evaluate_test(engine, data, evaluation, this.accelerator)
        outcomes.append(outcome)
        # The other model gets a new base model, without any remains of this one, such as LoRA's layers.
        del base, tuned, engine
    sp.save_contest(this, rows, sides, outcomes, evaluation)


def served(outcomes: sp.OutcomesConfig) -> None:
    """Compare adapters by the outcomes of their answers."""
    for line in sp.compare_outcomes(outcomes.log, outcomes.resamples):
        print(line)


def planned(plan: sp.PlanConfig) -> None:
    """Print the rows and users that a comparison needs."""
    for line in sp.plan_lines(plan.reference, plan.target, plan.disagree, plan.rows):
        print(line)


if __name__ == "__main__":
    sp.cli(main, outcomes=served, plan=planned)
