"""Hard prompts: written instructions, zero-shot or with solved examples, nothing trained.

    accelerate launch recipes/hard_prompt.py --config configs/sentiment/hard_prompt.yaml --hard.shots 8

Every wording is tried on validation; the best is scored on test. Any key of the YAML file is a flag too;
`--print_config` shows them all. Plain `python recipes/hard_prompt.py ...` runs on one process.

Ends with exit code 2 and one line for an error that you can mend, 0 when `result.json` is written.
"""

from dataclasses import asdict

from softprompts.config.cli import cli
from softprompts.config.sections import EvaluationConfig, ModelConfig, RunConfig, TaskConfig
from softprompts.engine.build import make_engine
from softprompts.evaluation.hard_prompts import HardPromptConfig, choose_wording, written_tasks
from softprompts.evaluation.predict import evaluate_test
from softprompts.methods.preflight import check_method
from softprompts.models.loading import input_spec, load_base_model
from softprompts.runs.outputs import save_run
from softprompts.runs.run import start_run
from softprompts.tasks.task import load_task
from softprompts.tasks.tokenization import encode


def main(
    model: ModelConfig,
    task: TaskConfig,
    hard: HardPromptConfig,
    evaluation: EvaluationConfig,
    run: RunConfig,
) -> None:
    """Choose a written prompt on validation and score it on the test split."""
    this = start_run("hard_prompt", model=model, task=task, hard=hard, evaluation=evaluation, run=run)
    check_method("hard_prompt", model)
    rows = load_task(task)
    base, tokenizer = load_base_model(model, this.accelerator.device, rows.choices)

    # The method: the only part that differs between recipes.
    spec = input_spec(base)
    candidates = [
        encode(t, tokenizer, spec, needs_end=not evaluation.stop) for t in written_tasks(rows, hard, this.seed)
    ]

    engine = make_engine(base, tokenizer, model, candidates[0], this.say)
    best, wordings = choose_wording(engine, candidates, hard, evaluation, this.accelerator)
    data = candidates[best]
    outcome = evaluate_test(engine, data, evaluation, this.accelerator)
    notes = {"chosen": best, "wordings": [asdict(w) for w in wordings]}
    save_run(this, data.task, base, outcome, notes=notes)


if __name__ == "__main__":
    cli(main)
