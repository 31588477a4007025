"""Prompt tuning: learn the embeddings of a few virtual tokens in front of every input (Lester et al. 2021).

    accelerate launch recipes/prompt_tuning.py --config configs/sentiment/prompt_tuning.yaml

Any key of the YAML file is a flag too: `--training.learning_rate 0.02`. `--print_config` shows them all, `--resume`
goes on with a run that was stopped. Plain `python recipes/prompt_tuning.py ...` runs on one process.

Ends with exit code 2 and one line for an error that you can mend, 130 or 143 after Ctrl-C or SIGTERM (the
checkpoint saved), 0 when `result.json` is written.
"""

from softprompts.config.cli import cli
from softprompts.config.sections import EvaluationConfig, ModelConfig, RunConfig, TaskConfig, TrainingConfig
from softprompts.engine.build import make_engine
from softprompts.evaluation.predict import evaluate_test
from softprompts.methods.preflight import check_method
from softprompts.methods.prompt_tuning import PromptConfig, add_soft_prompt
from softprompts.models.loading import input_spec, load_base_model
from softprompts.runs.outputs import save_adapter, save_run
from softprompts.runs.run import start_run
from softprompts.tasks.task import load_task
from softprompts.tasks.tokenization import encode
from softprompts.training.loop import train


def main(
    model: ModelConfig,
    task: TaskConfig,
    prompt: PromptConfig,
    training: TrainingConfig,
    evaluation: EvaluationConfig,
    run: RunConfig,
) -> None:
    """Train a soft prompt on a task, score it on the test split, save it as a stock PEFT adapter."""
    this = start_run(
        "prompt_tuning",
        model=model,
        task=task,
        prompt=prompt,
        training=training,
        evaluation=evaluation,
        run=run,
    )
    check_method("prompt_tuning", model)
    rows = load_task(task)
    base, tokenizer = load_base_model(model, this.accelerator.device, rows.choices)
    data = encode(rows, tokenizer, input_spec(base, prompt.num_virtual_tokens))

    # The method: the only part that differs between recipes.
    tuned = add_soft_prompt(base, tokenizer, prompt, this.seed, rows.choices)

    engine = make_engine(tuned, tokenizer, model, data, this.say)
    progress = train(engine, data, training, evaluation, this)
    adapter = save_adapter(tuned, this)
    outcome = evaluate_test(engine, data, evaluation, this.accelerator)
    save_run(this, rows, tuned, outcome, progress, adapter)


if __name__ == "__main__":
    cli(main)
