"""Prefix tuning: learn keys and values in front of every layer's own (Li and Liang 2021; P-tuning v2).

    accelerate launch recipes/prefix_tuning.py --config configs/sentiment/prefix_tuning.yaml

Any key of the YAML file is a flag too: `--training.learning_rate 0.02`. `--print_config` shows them all, `--resume`
goes on with a run that was stopped. Plain `python recipes/prefix_tuning.py ...` runs on one process.

Ends with exit code 2 and one line for an error that you can mend, 130 or 143 after Ctrl-C or SIGTERM (the
checkpoint saved), 0 when `result.json` is written.
"""

from softprompts.config.cli import cli
from softprompts.config.sections import EvaluationConfig, ModelConfig, RunConfig, TaskConfig, TrainingConfig
from softprompts.engine.build import make_engine
from softprompts.evaluation.predict import evaluate_test
from softprompts.methods.prefix_tuning import PrefixConfig, add_prefix
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
    prefix: PrefixConfig,
    training: TrainingConfig,
    evaluation: EvaluationConfig,
    run: RunConfig,
) -> None:
    """Train a prefix on a task, score it on the test split, save it as a stock PEFT adapter."""
    this = start_run(
        "prefix_tuning",
        model=model,
        task=task,
        prefix=prefix,
        training=training,
        evaluation=evaluation,
        run=run,
    )
    check_method("prefix_tuning", model)
    rows = load_task(task)
    base, tokenizer = load_base_model(model, this.accelerator.device, rows.choices)
    data = encode(rows, tokenizer, input_spec(base, prefix.num_virtual_tokens))

    # The method: the only part that differs between recipes.
    tuned = add_prefix(base, tokenizer, prefix, this.seed)

    engine = make_engine(tuned, tokenizer, model, data, this.say)
    progress = train(engine, data, training, evaluation, this)
    adapter = save_adapter(tuned, this)
    outcome = evaluate_test(engine, data, evaluation, this.accelerator)
    save_run(this, rows, tuned, outcome, progress, adapter)


if __name__ == "__main__":
    cli(main)
