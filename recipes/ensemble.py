"""Ensemble: several trained prompts of one task answer in the same forward passes, and vote (Lester et al. 2021).

    accelerate launch recipes/ensemble.py --config configs/sentiment/ensemble.yaml

Prints the mean of the single prompts, the best of them by validation, and the vote. Any key of the YAML file is a flag
too: `--ensemble.adapters '[runs/a, runs/b]'`. `--print_config` shows them all. Plain `python recipes/ensemble.py ...`
is one process.

Ends with exit code 2 and one line for an error that you can mend, 0 when `result.json` is written.
"""

from softprompts.adapters.loading import virtual_tokens
from softprompts.config.cli import cli
from softprompts.config.sections import EvaluationConfig, ModelConfig, RunConfig, TaskConfig
from softprompts.engine.build import make_engine
from softprompts.evaluation.ensemble import (
    EnsembleConfig,
    behind_each,
    load_members,
    members,
    outcome_of_vote,
    summary_of_members,
)
from softprompts.evaluation.predict import evaluate_test, predict
from softprompts.models.loading import input_spec, load_base_model
from softprompts.runs.outputs import save_run
from softprompts.runs.run import start_run
from softprompts.tasks.task import load_task
from softprompts.tasks.tokenization import encode


def main(
    model: ModelConfig,
    task: TaskConfig,
    ensemble: EnsembleConfig,
    evaluation: EvaluationConfig,
    run: RunConfig,
) -> None:
    """Score prompts of prompt tuning or prefix tuning one by one and together, on one split of a task."""
    folders = members(ensemble, task)
    this = start_run("ensemble", model=model, task=task, ensemble=ensemble, evaluation=evaluation, run=run)
    rows = load_task(task)
    base, tokenizer = load_base_model(model, this.accelerator.device, rows.choices)

    # The method: the only part that differs between recipes.
    bank = load_members(base, folders, ensemble)
    data = encode(rows, tokenizer, input_spec(base, max(map(virtual_tokens, bank))))

    engine = make_engine(bank[0], tokenizer, model, data, this.say, bank[1:])
    data = behind_each(data, len(bank))
    validation = predict(engine, data.validation, evaluation, this.accelerator, "validating")
    outcome = evaluate_test(engine, data, evaluation, this.accelerator)
    outcome, notes = outcome_of_vote(outcome, validation, data, ensemble, evaluation)
    this.say(summary_of_members(notes))
    save_run(this, rows, engine, outcome, notes=notes)


if __name__ == "__main__":
    cli(main)
