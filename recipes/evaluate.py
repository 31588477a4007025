"""Evaluate: score a saved adapter, ours or anyone's from PEFT, on any task and split.

    accelerate launch recipes/evaluate.py --config configs/sentiment/evaluate.yaml --adapter.path runs/sentiment/lora

Without an adapter the base model is scored as it is; the whole model that full fine-tuning leaves is one. Any key of
the YAML file is a flag too; `--print_config` shows them all. Plain `python recipes/evaluate.py ...` is one process.

Ends with exit code 2 and one line for an error that you can mend, 0 when `result.json` is written.
"""

from softprompts.adapters.loading import AdapterConfig, load_adapter, virtual_tokens
from softprompts.config.cli import cli
from softprompts.config.sections import EvaluationConfig, ModelConfig, RunConfig, TaskConfig
from softprompts.engine.build import make_engine
from softprompts.evaluation.predict import evaluate_test
from softprompts.models.loading import input_spec, load_base_model
from softprompts.runs.outputs import save_run
from softprompts.runs.run import start_run
from softprompts.tasks.task import load_task
from softprompts.tasks.tokenization import behind, encode


def main(
    model: ModelConfig,
    task: TaskConfig,
    adapter: AdapterConfig,
    evaluation: EvaluationConfig,
    run: RunConfig,
) -> None:
    """Score an adapter on one split of a task."""
    this = start_run("evaluate", model=model, task=task, adapter=adapter, evaluation=evaluation, run=run)
    rows = load_task(task)
    base, tokenizer = load_base_model(model, this.accelerator.device, rows.choices)

    # The method: the only part that differs between recipes.
    tuned = load_adapter(base, adapter)
    data = encode(rows, tokenizer, input_spec(base, virtual_tokens(tuned)))
    data = behind(data, adapter.task_id)

    engine = make_engine(tuned, tokenizer, model, data, this.say)
    outcome = evaluate_test(engine, data, evaluation, this.accelerator)
    save_run(this, rows, tuned, outcome, notes={"split": evaluation.split})


if __name__ == "__main__":
    cli(main)
