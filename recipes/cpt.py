"""CPT: the embeddings of a few examples, changed within bounds, trained on the same examples (Blau et al. 2024).

    accelerate launch recipes/cpt.py --config configs/sentiment/cpt.yaml

For 8 to 64 examples. It starts as few-shot prompting with them; `recipes/hard_prompt.py` draws the same examples with
the same `--run.seed`.

Each key of the YAML file is also a flag: `--cpt.demonstrations 32`. `--print_config` shows all keys. `--resume`
continues a run that was stopped. Plain `python recipes/cpt.py ...` runs in one process.

The exit code is 0 after `result.json` is written, and 2 with one line for an error that you can fix. After Ctrl-C or
SIGTERM it is 130 or 143, and the checkpoint is saved. After an error, `accelerate launch` ends with exit code 1, and
adds its own traceback unless it gets `--quiet`.
"""

import softprompts as sp


def main(
    model: sp.ModelConfig,
    task: sp.TaskConfig,
    cpt: sp.CPTConfig,
    training: sp.TrainingConfig,
    evaluation: sp.EvaluationConfig,
    run: sp.RunConfig,
) -> None:
    """Train the embeddings of a few examples on these, score them on test, save a stock PEFT adapter."""
    rows = sp.load_task(task)
    this = sp.start_run(
        "cpt",
        model=model,
        task=task,
        cpt=cpt,
        training=training,
        evaluation=evaluation,
        run=run,
    )
    sp.check_method("cpt", model)
    base, tokenizer = sp.load_base_model(model, this.accelerator.device, rows.choices)

    # The method: the only part that differs between recipes.
    few = sp.demonstrations(rows, cpt, this.seed)
    data = sp.encode(few, tokenizer, sp.input_spec(base))
    tuned = sp.add_cpt(base, tokenizer, data, cpt)

    engine = sp.make_engine(tuned, tokenizer, config=model, data=data, say=this.say)
    progress = sp.train(engine, data, training, evaluation, this)
    adapter = sp.save_adapter(tuned, this)
    outcome = sp.evaluate_test(engine, data, evaluation, this.accelerator)
    sp.save_run(this, few, tuned, outcome, progress=progress, adapter=adapter)


if __name__ == "__main__":
    sp.cli(main)
