"""IA3: learn factors for keys, values and inner activations, a baseline with few parameters (Liu et al. 2022).

    accelerate launch recipes/ia3.py --config configs/sentiment/ia3.yaml

Each key of the YAML file is also a flag: `--training.learning_rate 0.02`. `--print_config` shows all keys. `--resume`
continues a run that was stopped. Plain `python recipes/ia3.py ...` runs in one process.

The exit code is 0 after `result.json` is written, and 2 with one line for an error that you can fix. After Ctrl-C or
SIGTERM it is 130 or 143, and the checkpoint is saved. After an error, `accelerate launch` ends with exit code 1, and
adds its own traceback unless it gets `--quiet`.
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
    """Train factors for activations on a task, score them on the test split, save them as a stock PEFT adapter."""
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
