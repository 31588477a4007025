"""Full fine-tuning: move every weight of the model, the upper end of what a soft prompt is weighed against.

    accelerate launch recipes/full_finetuning.py --config configs/sentiment/full_finetuning.yaml

Any key of the YAML file is a flag too: `--training.learning_rate 0.02`. `--print_config` shows them all, `--resume`
goes on with a run that was stopped. Plain `python recipes/full_finetuning.py ...` runs on one process.

Ends with exit code 2 and one line for an error that you can mend, 130 or 143 after Ctrl-C or SIGTERM (the
checkpoint saved), 0 when `result.json` is written.
"""

import softprompts as sp


def main(
    model: sp.ModelConfig,
    task: sp.TaskConfig,
    training: sp.TrainingConfig,
    evaluation: sp.EvaluationConfig,
    run: sp.RunConfig,
) -> None:
    """Train a whole model on a task, score it on the test split, save all of it."""
    rows = sp.load_task(task)
    this = sp.start_run(
        "full_finetuning",
        model=model,
        task=task,
        training=training,
        evaluation=evaluation,
        run=run,
    )
    sp.check_method("full_finetuning", model)
    base, tokenizer = sp.load_base_model(model, this.accelerator.device, rows.choices)
    data = sp.encode(rows, tokenizer, sp.input_spec(base))

    # The method: the only part that differs between recipes.
    tuned = sp.train_everything(base)

    engine = sp.make_engine(tuned, tokenizer, config=model, data=data, say=this.say)
    progress = sp.train(engine, data, training, evaluation, this)
    adapter = sp.save_model(tuned, tokenizer, this)
    outcome = sp.evaluate_test(engine, data, evaluation, this.accelerator)
    sp.save_run(this, rows, tuned, outcome, progress=progress, adapter=adapter)


if __name__ == "__main__":
    sp.cli(main)
