"""Sweep: several soft prompts train side by side over one base model, and validation chooses the best of them.

    accelerate launch recipes/sweep.py --config configs/sentiment/sweep.yaml

The candidates are all combinations of the values in `sweep.grid`: learning rates, seeds, lengths, initial texts. They
share the base model's forward passes and nothing else: each ends where a run of its own would, up to rounding.

Any key of the YAML file is a flag too: `--sweep.grid '{training.learning_rate: [0.01, 0.02]}'`. `--print_config` shows
them all, `--resume` goes on with a sweep that was stopped. Ends with exit code 2 and one line for an error that you can
mend, 130 or 143 after Ctrl-C or SIGTERM (the checkpoints saved), 0 when `result.json` is written.
"""

from dataclasses import asdict

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
from softprompts.training.sweep import SweepConfig, points, run_sweep, save_sweep


def main(
    model: ModelConfig,
    task: TaskConfig,
    prompt: PromptConfig,
    sweep: SweepConfig,
    training: TrainingConfig,
    evaluation: EvaluationConfig,
    run: RunConfig,
) -> None:
    """Train every candidate, score the best on validation on the test split, save it as a stock PEFT adapter."""
    grid = points(sweep, prompt, training, run)
    this = start_run(
        "sweep",
        model=model,
        task=task,
        prompt=prompt,
        sweep=sweep,
        training=training,
        evaluation=evaluation,
        run=run,
    )
    check_method("prompt_tuning", model)
    rows = load_task(task)
    base, tokenizer = load_base_model(model, this.accelerator.device, rows.choices)
    longest = max(point.prompt.num_virtual_tokens for point in grid)
    data = encode(rows, tokenizer, input_spec(base, longest))

    # The method: the only part that differs between recipes.
    bank = [add_soft_prompt(base, tokenizer, point.prompt, point.seed, rows.choices) for point in grid]

    engine = make_engine(bank[0], tokenizer, model, data, this.say, bank[1:])
    best, standings = run_sweep(engine, grid, data, evaluation, this)
    data, tuned = best.data, best.model
    adapter = save_adapter(tuned, this)
    outcome = evaluate_test(engine, data, evaluation, this.accelerator)
    save_sweep(this, standings, training.best_by)
    notes = {"chosen": best.name, "candidates": [asdict(s) for s in standings]}
    save_run(this, rows, tuned, outcome, best.progress, adapter, notes)


if __name__ == "__main__":
    cli(main)
