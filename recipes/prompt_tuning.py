"""Prompt tuning: learn the embeddings of a few virtual tokens before every input (Lester et al. 2021).

    accelerate launch recipes/prompt_tuning.py --config configs/sentiment/prompt_tuning.yaml

Each key of the YAML file is also a flag: `--training.learning_rate 0.02`. `--print_config` shows all keys. `--resume`
continues a run that was stopped. Plain `python recipes/prompt_tuning.py ...` runs in one process.

The exit code is 0 after `result.json` is written, and 2 with one line for an error that you can fix. After Ctrl-C or
SIGTERM it is 130 or 143, and the checkpoint is saved. After an error, `accelerate launch` ends with exit code 1, and
adds its own traceback unless it gets `--quiet`.
"""

import softprompts as sp


def main(
    model: sp.ModelConfig,
    task: sp.TaskConfig,
    prompt: sp.PromptConfig,
    training: sp.TrainingConfig,
    evaluation: sp.EvaluationConfig,
    run: sp.RunConfig,
) -> None:
    """Train a soft prompt on a task, score it on the test split, save it as a stock PEFT adapter."""
    rows = sp.load_task(task)
    this = sp.start_run(
        "prompt_tuning",
        model=model,
        task=task,
        prompt=prompt,
        training=training,
        evaluation=evaluation,
        run=run,
    )
    sp.check_method("prompt_tuning", model)
    base, tokenizer = sp.load_base_model(model, this.accelerator.device, rows.choices)
    data = sp.encode(rows, tokenizer, sp.input_spec(base, prompt.num_virtual_tokens))

    # The method: the only part that differs between recipes.
    start = sp.load_start(base, prompt)  # none, unless prompt.init_adapter names a trained one
    tuned = sp.add_soft_prompt(base, tokenizer, prompt, seed=this.seed, task=rows, start=start)

    engine = sp.make_engine(tuned, tokenizer, config=model, data=data, say=this.say)
    progress = sp.train(engine, data, training, evaluation, this)
    adapter = sp.save_adapter(tuned, this)
    outcome = sp.evaluate_test(engine, data, evaluation, this.accelerator)
    sp.save_run(this, rows, tuned, outcome, progress=progress, adapter=adapter)


if __name__ == "__main__":
    sp.cli(main)
