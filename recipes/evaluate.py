"""Evaluate: score a saved adapter, of this project or of PEFT, on any task and split.

    accelerate launch recipes/evaluate.py --config configs/sentiment/evaluate.yaml --adapter.path runs/sentiment/lora

Without an adapter, the base model is scored, which may be a whole model of full fine-tuning. Each key of the YAML file
is also a flag; `--print_config` shows all keys. Plain `python recipes/evaluate.py ...` runs in one process.

The exit code is 0 after `result.json` is written, and 2 with one line for an error that you can fix. After an error,
`accelerate launch` ends with exit code 1, and adds its own traceback unless it gets `--quiet`.
"""

import softprompts as sp


def main(
    model: sp.ModelConfig,
    task: sp.TaskConfig,
    adapter: sp.AdapterConfig,
    evaluation: sp.EvaluationConfig,
    run: sp.RunConfig,
) -> None:
    """Score an adapter on one split of a task."""
    rows = sp.load_task(task)
    this = sp.start_run("evaluate", model=model, task=task, adapter=adapter, evaluation=evaluation, run=run)
    base, tokenizer = sp.load_base_model(model, this.accelerator.device, rows.choices)

    # The method: the only part that differs between recipes.
    tuned = sp.load_adapter(base, adapter)
    spec = sp.input_spec(base, sp.virtual_tokens(tuned))
    data = sp.encode(rows, tokenizer, spec, needs_end=not evaluation.stop)
    data = sp.with_soft_prompt(data, adapter.task_id)

    engine = sp.make_engine(tuned, tokenizer, config=model, data=data, say=this.say)
    outcome = sp.evaluate_test(engine, data, evaluation, this.accelerator)
    sp.save_run(this, rows, tuned, outcome, notes={"split": evaluation.split})


if __name__ == "__main__":
    sp.cli(main)
