"""Compare: two contestants on the same rows, and what the difference between them is worth.

    accelerate launch recipes/compare.py --config configs/sentiment/compare.yaml \\
        --first.path runs/sentiment/prompt_tuning --second.path runs/sentiment/lora

A contestant is a saved adapter, ours or anyone's from PEFT, a whole model that full fine-tuning left, or a written
prompt on the base model (`--second.wording`, `--second.shots 8`). Both answer one split of a task, or of rows of your
own; `compare.md` shows both scores, the paired difference with its interval, and the rows that one answers better.

Any key of the YAML file is a flag too; `--print_config` shows them all. Plain `python recipes/compare.py ...` is one
process.

Ends with exit code 2 and one line for an error that you can mend, 0 when `compare.json` is written.
"""

from softprompts.adapters.loading import virtual_tokens
from softprompts.config.cli import cli
from softprompts.config.sections import EvaluationConfig, ModelConfig, RunConfig, TaskConfig
from softprompts.engine.build import make_engine
from softprompts.evaluation.comparison import ContestantConfig, contestants, load_contestant
from softprompts.evaluation.predict import evaluate_test
from softprompts.models.loading import input_spec, load_base_model
from softprompts.runs.comparison_page import save_contest
from softprompts.runs.run import start_run
from softprompts.tasks.task import load_task
from softprompts.tasks.tokenization import behind, encode


def main(
    model: ModelConfig,
    task: TaskConfig,
    first: ContestantConfig,
    second: ContestantConfig,
    evaluation: EvaluationConfig,
    run: RunConfig,
) -> None:
    """Score two contestants on one split of a task, and compare their answers."""
    this = start_run("compare", model=model, task=task, first=first, second=second, evaluation=evaluation, run=run)
    rows = load_task(task)
    sides = contestants(first, second, model, rows, evaluation, this.seed)
    outcomes = []
    for side in sides:
        model = side.model  # the base model that the settings name, or the whole model that competes
        base, tokenizer = load_base_model(model, this.accelerator.device, rows.choices)

        # The method: the only part that differs between recipes.
        tuned = load_contestant(base, side)
        data = encode(side.task, tokenizer, input_spec(base, virtual_tokens(tuned)))
        data = behind(data, side.adapter.task_id)

        engine = make_engine(tuned, tokenizer, model, data, this.say)
        outcome = evaluate_test(engine, data, evaluation, this.accelerator)
        outcomes.append(outcome)
        # The other gets a base model anew: nothing of this one, LoRA's layers say, is left in it.
        del base, tuned, engine
    save_contest(this, rows, sides, outcomes, evaluation)


if __name__ == "__main__":
    cli(main)
