"""Multitask prompt tuning: a shared prompt learnt over several tasks, with a small factor a task (Wang et al. 2023).

    accelerate launch recipes/multitask_prompt_tuning.py --config configs/sentiment/multitask_prompt_tuning.yaml

A task is all rows with one value in the column `prompt.column`. First the shared prompt and the factors train together,
then, for `prompt.factor_steps` updates, the factors alone. What is saved is one plain soft prompt a task.

Any key of the YAML file is a flag too: `--training.learning_rate 0.02`. `--print_config` shows them all, `--resume`
goes on with a run that was stopped. Plain `python recipes/multitask_prompt_tuning.py ...` runs on one process.

Ends with exit code 2 and one line for an error that you can mend, 130 or 143 after Ctrl-C or SIGTERM (the
checkpoint saved), 0 when `result.json` is written.
"""

from dataclasses import replace

from softprompts.config.cli import cli
from softprompts.config.sections import EvaluationConfig, ModelConfig, RunConfig, TaskConfig, TrainingConfig
from softprompts.engine.build import make_engine
from softprompts.evaluation.predict import evaluate_test, metrics_by
from softprompts.methods.multitask_prompt_tuning import MultitaskConfig, add_multitask_prompt, by_task, factors_alone
from softprompts.methods.preflight import check_method
from softprompts.models.loading import input_spec, load_base_model
from softprompts.runs.outputs import save_adapter, save_run
from softprompts.runs.run import start_run
from softprompts.tasks.task import load_task
from softprompts.tasks.tokenization import encode
from softprompts.training.loop import train


def main(
    model: ModelConfig,
    task: TaskConfig,
    prompt: MultitaskConfig,
    training: TrainingConfig,
    evaluation: EvaluationConfig,
    run: RunConfig,
) -> None:
    """Train soft prompts on several tasks, score them on the test split, save each as a stock PEFT adapter."""
    this = start_run(
        "multitask_prompt_tuning",
        model=model,
        task=task,
        prompt=prompt,
        training=training,
        evaluation=evaluation,
        run=run,
    )
    check_method("multitask_prompt_tuning", model)
    rows = load_task(task)
    base, tokenizer = load_base_model(model, this.accelerator.device, rows.choices)
    data = encode(rows, tokenizer, input_spec(base, prompt.num_virtual_tokens))

    # The method: the only part that differs between recipes.
    data, tasks = by_task(data, prompt.column)
    tuned = add_multitask_prompt(base, tokenizer, prompt, tasks, this.seed)

    engine = make_engine(tuned, tokenizer, model, data, this.say)
    progress = train(engine, data, training, evaluation, this)
    if prompt.factor_steps:
        factors = replace(training, steps=prompt.factor_steps)
        with factors_alone(tuned):
            progress = progress.followed_by(train(engine, data, factors, evaluation, this, "factors"))
    adapter = save_adapter(tuned, this, tasks)
    outcome = evaluate_test(engine, data, evaluation, this.accelerator)
    notes = {"tasks": metrics_by(outcome, data, prompt.column)}
    save_run(this, rows, tuned, outcome, progress, adapter, notes)


if __name__ == "__main__":
    cli(main)
