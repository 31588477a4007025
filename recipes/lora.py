"""LoRA: learn low-rank changes of the weights, the main alternative to soft prompts (Hu et al. 2021).

    accelerate launch recipes/lora.py --config configs/sentiment/lora.yaml

With `--model.quantization nf4` it is QLoRA (Dettmers et al. 2023).

Each key of the YAML file is also a flag: `--training.steps 100`. `--print_config` shows all keys. `--resume`
continues a run that was stopped. Plain `python recipes/lora.py ...` runs in one process.

The exit code is 0 after `result.json` is written, and 2 with one line for an error that you can fix. After Ctrl-C or
SIGTERM it is 130 or 143, and the checkpoint is saved. After an error, `accelerate launch` ends with exit code 1, and
adds its own traceback unless it gets `--quiet`.
"""

import softprompts as sp


def main(
    model: sp.ModelConfig,
    task: sp.TaskConfig,
    lora: sp.LoraConfig,
    training: sp.TrainingConfig,
    evaluation: sp.EvaluationConfig,
    run: sp.RunConfig,
) -> None:
    """Train low-rank matrices on a task, score them on the test split, save them as a stock PEFT adapter."""
    rows = sp.load_task(task)
    this = sp.start_run(
        "lora",
        model=model,
        task=task,
        lora=lora,
        training=training,
        evaluation=evaluation,
        run=run,
    )
    sp.check_method("lora", model, lora)
    base, tokenizer = sp.load_base_model(model, this.accelerator.device, rows.choices)
    data = sp.encode(rows, tokenizer, sp.input_spec(base))

    # The method: the only part that differs between recipes.
    tuned = sp.add_lora(base, lora, seed=this.seed)

    engine = sp.make_engine(tuned, tokenizer, config=model, data=data, say=this.say)
    progress = sp.train(engine, data, training, evaluation, this)
    adapter = sp.save_adapter(tuned, this)
    outcome = sp.evaluate_test(engine, data, evaluation, this.accelerator)
    sp.save_run(this, rows, tuned, outcome, progress=progress, adapter=adapter)


if __name__ == "__main__":
    sp.cli(main)
