"""Full fine-tuning: move every weight of the model, the upper end of what a soft prompt is weighed against.

    accelerate launch recipes/full_finetuning.py --config configs/sentiment/full_finetuning.yaml

Any key of the YAML file is a flag too: `--training.learning_rate 0.02`. `--print_config` shows them all, `--resume`
goes on with a run that was stopped. Plain `python recipes/full_finetuning.py ...` runs on one process.

Ends with exit code 2 and one line for an error that you can mend, 130 or 143 after Ctrl-C or SIGTERM (the
checkpoint saved), 0 when `result.json` is written.
"""

from softprompts.config.cli import cli
from softprompts.config.sections import EvaluationConfig, ModelConfig, RunConfig, TaskConfig, TrainingConfig
from softprompts.engine.build import make_engine
from softprompts.evaluation.predict import evaluate_test
from softprompts.methods.full_finetuning import train_everything
from softprompts.methods.preflight import check_method
from softprompts.models.loading import input_spec, load_base_model
from softprompts.runs.outputs import save_model, save_run
from softprompts.runs.run import start_run
from softprompts.tasks.task import load_task
from softprompts.tasks.tokenization import encode
from softprompts.training.loop import train


def main(
    model: ModelConfig,
    task: TaskConfig,
    training: TrainingConfig,
    evaluation: EvaluationConfig,
    run: RunConfig,
) -> None:
    """Train a whole model on a task, score it on the test split, save all of it."""
    this = start_run(
        "full_finetuning",
        model=model,
        task=task,
        training=training,
        evaluation=evaluation,
        run=run,
    )
    check_method("full_finetuning", model)
    rows = load_task(task)
    base, tokenizer = load_base_model(model, this.accelerator.device, rows.choices)
    data = encode(rows, tokenizer, input_spec(base))

    # The method: the only part that differs between recipes.
    tuned = train_everything(base)

    engine = make_engine(tuned, tokenizer, model, data, this.say)
    progress = train(engine, data, training, evaluation, this)
    adapter = save_model(tuned, tokenizer, this)
    outcome = evaluate_test(engine, data, evaluation, this.accelerator)
    save_run(this, rows, tuned, outcome, progress, adapter)


if __name__ == "__main__":
    cli(main)
