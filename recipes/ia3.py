"""IA3: learn factors of keys, values and inner activations, a baseline of few parameters (Liu et al. 2022).

    accelerate launch recipes/ia3.py --config configs/sentiment/ia3.yaml

Any key of the YAML file is a flag too: `--training.learning_rate 0.02`. `--print_config` shows them all, `--resume`
goes on with a run that was stopped. Plain `python recipes/ia3.py ...` runs on one process.

Ends with exit code 2 and one line for an error that you can mend, 130 or 143 after Ctrl-C or SIGTERM (the
checkpoint saved), 0 when `result.json` is written.
"""

import softprompts as sp


def main(
    model: sp.ModelConfig,
    task: sp.TaskConfig,
    ia3: sp.IA3Config,
    training: sp.TrainingConfig,
    evaluation: sp.EvaluationConfig,
    run: sp.RunConfig,
) -> None:
    """Train factors of activations on a task, score them on the test split, save them as a stock PEFT adapter."""
    rows = sp.load_task(task)
    this = sp.start_run(
        "ia3",
        model=model,
        task=task,
        ia3=ia3,
        training=training,
        evaluation=evaluation,
        run=run,
    )
    sp.check_method("ia3", model, ia3)
    base, tokenizer = sp.load_base_model(model, this.accelerator.device, rows.choices)
    data = sp.encode(rows, tokenizer, sp.input_spec(base))

    # The method: the only part that differs between recipes.
    tuned = sp.add_ia3(base, ia3)

    engine = sp.make_engine(tuned, tokenizer, config=model, data=data, say=this.say)
    progress = sp.train(engine, data, training, evaluation, this)
    adapter = sp.save_adapter(tuned, this)
    outcome = sp.evaluate_test(engine, data, evaluation, this.accelerator)
    sp.save_run(this, rows, tuned, outcome, progress=progress, adapter=adapter)


if __name__ == "__main__":
    sp.cli(main)
