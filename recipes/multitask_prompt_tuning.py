"""Multitask prompt tuning: learn a shared prompt over several tasks, with a small factor per task (Wang et al. 2023).

    accelerate launch recipes/multitask_prompt_tuning.py --config configs/sentiment/multitask_prompt_tuning.yaml

A task is all rows with the same value in the column `prompt.column`. First the shared prompt and the factors are
trained together; then, for `prompt.factor_steps` steps, only the factors. One plain soft prompt per task is saved.

Each key of the YAML file is also a flag: `--training.learning_rate 0.02`. `--print_config` shows all keys. `--resume`
continues a run that was stopped. Plain `python recipes/multitask_prompt_tuning.py ...` runs in one process.

The exit code is 0 after `result.json` is written, and 2 with one line for an error that you can fix. After Ctrl-C or
SIGTERM it is 130 or 143, and the checkpoint is saved. After an error, `accelerate launch` ends with exit code 1, and
adds its own traceback unless it gets `--quiet`.
"""

import softprompts as sp


def main(
    model: sp.ModelConfig,
    task: sp.TaskConfig,
    prompt: sp.MultitaskConfig,
    training: sp.TrainingConfig,
    evaluation: sp.EvaluationConfig,
    run: sp.RunConfig,
) -> None:
    """Train soft prompts on several tasks, score them on the test split, save each as a stock PEFT adapter."""
    factors = sp.training_of_factors(prompt, training)
    rows = sp.load_task(task)
    this = sp.start_run(
        "multitask_prompt_tuning",
        model=model,
        task=task,
        prompt=prompt,
        training=training,
        evaluation=evaluation,
        run=run,
    )
    sp.check_method("multitask_prompt_tuning", model)
    base, tokenizer = sp.load_base_model(model, this.accelerator.device, rows.choices)
    data = sp.encode(rows, tokenizer, sp.input_spec(base, prompt.num_virtual_tokens))

    # The method: the only part that differs between recipes.
    data, tasks = sp.by_task(data, prompt.column)
    tuned = sp.add_multitask_prompt(base, tokenizer, prompt, tasks=tasks, seed=this.seed, task=rows)

    engine = sp.make_engine(tuned, tokenizer, config=model, data=data, say=this.say)
    progress = sp.train(engine, data, training, evaluation, this)
    if factors:
        with sp.factors_alone(tuned):
            progress = progress.followed_by(sp.train(engine, data, factors, evaluation, this, stage="factors"))
    adapter = sp.save_adapter(tuned, this, tasks)
    outcome = sp.evaluate_test(engine, data, evaluation, this.accelerator)
    notes = {"tasks": sp.metrics_by(outcome, data, prompt.column)}
    sp.save_run(this, rows, tuned, outcome, progress=progress, adapter=adapter, notes=notes)


if __name__ == "__main__":
    sp.cli(main)
