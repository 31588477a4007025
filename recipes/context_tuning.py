"""Context tuning: a few examples become a prefix, which is trained on the same examples (CT-KV, Lu et al. 2025).

    accelerate launch recipes/context_tuning.py --config configs/sentiment/context_tuning.yaml

For 8 to 64 examples. It starts as few-shot prompting with them; `recipes/hard_prompt.py` draws the same examples with
the same `--run.seed`.

Each key of the YAML file is also a flag: `--context.demonstrations 32`. `--print_config` shows all keys. `--resume`
continues a run that was stopped. Plain `python recipes/context_tuning.py ...` runs in one process.

The exit code is 0 after `result.json` is written, and 2 with one line for an error that you can fix. After Ctrl-C or
SIGTERM it is 130 or 143, and the checkpoint is saved. After an error, `accelerate launch` ends with exit code 1, and
adds its own traceback unless it gets `--quiet`.
"""

import softprompts as sp


def main(
    model: sp.ModelConfig,
    task: sp.TaskConfig,
    context: sp.ContextConfig,
    training: sp.TrainingConfig,
    evaluation: sp.EvaluationConfig,
    run: sp.RunConfig,
) -> None:
    """Train the keys and values of a few examples on these, score them on test, save a stock PEFT adapter."""
    rows = sp.load_task(task)
    this = sp.start_run(
        "context_tuning",
        model=model,
        task=task,
        context=context,
        training=training,
        evaluation=evaluation,
        run=run,
    )
    sp.check_method("context_tuning", model)
    base, tokenizer = sp.load_base_model(model, this.accelerator.device, rows.choices)

    # The method: the only part that differs between recipes.
    few = sp.demonstrations(rows, context, this.seed)
    data = sp.encode(few, tokenizer, sp.input_spec(base))
    tuned = sp.add_context(base, tokenizer, data, context)

    engine = sp.make_engine(tuned, tokenizer, config=model, data=data, say=this.say)
    progress = sp.train(engine, data, training, evaluation, this)
    adapter = sp.save_adapter(tuned, this)
    outcome = sp.evaluate_test(engine, data, evaluation, this.accelerator)
    sp.save_run(this, few, tuned, outcome, progress=progress, adapter=adapter)


if __name__ == "__main__":
    sp.cli(main)
