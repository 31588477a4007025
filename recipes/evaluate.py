"""Evaluate: score a saved adapter, ours or anyone's from PEFT, on any task and split.

    accelerate launch recipes/evaluate.py --config configs/sentiment/evaluate.yaml --adapter.path runs/sentiment/lora

Without an adapter the base model is scored as it is; the whole model that full fine-tuning leaves is one. Any key of
the YAML file is a flag too; `--print_config` shows them all. Plain `python recipes/evaluate.py ...` is one process.

Ends with exit code 2 and one line for an error that you can mend, 0 when `result.json` is written.
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
    data = sp.encode(rows, tokenizer, sp.input_spec(base, sp.virtual_tokens(tuned)))
    data = sp.with_soft_prompt(data, adapter.task_id)

    engine = sp.make_engine(tuned, tokenizer, config=model, data=data, say=this.say)
    outcome = sp.evaluate_test(engine, data, evaluation, this.accelerator)
    sp.save_run(this, rows, tuned, outcome, notes={"split": evaluation.split})


if __name__ == "__main__":
    sp.cli(main)
