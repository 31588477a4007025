"""Sweep: train candidates with different settings, drop the worse ones early, and let validation choose the best.

    accelerate launch recipes/sweep.py --config configs/sentiment/sweep.yaml

The candidates are all combinations of the values in `sweep.grid`: learning rates, seeds, lengths, initial texts. Soft
prompts share only the base model's forward passes, so each has the result of a separate run, up to rounding. LoRA, IA3,
full fine-tuning and all methods on an encoder train their candidates one after another, each on its own copy.

With `sweep.reduction_factor: 2` the better half continues after parts of the steps, for example 1/8, 1/4 and 1/2. The
last one is trained as long as a real run. With `sweep.extensions: 3` values beyond the edges are tried if the best is
an edge.

Each key of the YAML file is also a flag: `--sweep.grid '{training.learning_rate: [0.01, 0.02]}'`. `--print_config`
shows all keys. `--resume` continues a sweep that was stopped. The exit code is 0 after `result.json` is written, and 2
with one line for an error that you can fix. After Ctrl-C or SIGTERM it is 130 or 143, and the checkpoints are saved.
After an error, `accelerate launch` ends with exit code 1, and adds its own traceback unless it gets `--quiet`.
"""

import copy
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import softprompts as sp


def main(
    model: sp.ModelConfig,
    task: sp.TaskConfig,
    prompt: sp.PromptConfig,
    prefix: sp.PrefixConfig,
    encoder: sp.EncoderConfig,
    lora: sp.LoraConfig,
    ia3: sp.IA3Config,
    sweep: sp.SweepConfig,
    training: sp.TrainingConfig,
    evaluation: sp.EvaluationConfig,
    run: sp.RunConfig,
) -> None:
    """Train the candidates, score the best one by validation on test, and save it as its recipe would."""
    sections: dict[str, Any] = {"prompt": prompt, "prefix": prefix, "encoder": encoder, "lora": lora, "ia3": ia3}
    grid = sp.grid_of(sweep, sections, training, run)
    points = grid.points()
    rows = sp.load_task(task)
    this = sp.start_run(
        "sweep",
        model=model,
        task=task,
        prompt=prompt,
        prefix=prefix,
        encoder=encoder,
        lora=lora,
        ia3=ia3,
        sweep=sweep,
        training=training,
        evaluation=evaluation,
        run=run,
    )
    sp.check_method(sweep.method, model, *([sections[sweep.method]] if sweep.method in ("lora", "ia3") else []))
    base, tokenizer = sp.load_base_model(model, this.accelerator.device, rows.choices)
    data = sp.encode(rows, tokenizer, sp.input_spec(base, longest(points)))
    # An encoder's classifier is trained with every method, inside of the base model.
    shared = sweep.method not in ("lora", "ia3", "full_finetuning") and sp.kind_of(base.config) != "encoder"

    def build(points: Sequence[sp.Point]) -> sp.Engine:
        # A longer prompt of an extension leaves less room for the rows.
        sp.check_lengths(data, sp.input_spec(base, longest(points)))
        own = base if shared else copy.deepcopy(base)
        # The method: the only part that differs between recipes.
        bank = [add(sweep.method, own, tokenizer, point, rows) for point in points]
        return sp.make_engine(bank[0], tokenizer, config=model, data=data, say=this.say, bank=bank[1:])

    engine, best, standings = sp.run_sweep(grid, build, tokenizer, data, evaluation, this, together=shared)
    tuned = best.model
    whole = sweep.method == "full_finetuning"
    saved = sp.save_model(tuned, tokenizer, this) if whole else sp.save_adapter(tuned, this)
    outcome = sp.evaluate_test(engine, data, evaluation, this.accelerator)
    sp.save_sweep(this, standings, training.best_by)
    notes = {"chosen": best.name, "candidates": [asdict(s) for s in standings]}
    this = sp.as_chosen(this, grid, standings)  # its record has the settings and the seed of the best
    sp.save_run(this, rows, tuned, outcome, progress=best.progress, adapter=saved, notes=notes)


def add(method: str, base: Any, tokenizer: Any, point: sp.Point, rows: sp.Task) -> Any:
    """Add a method to the base model as its recipe does, with the settings of a candidate."""
    match method:
        case "prompt_tuning":
            start = sp.load_start(base, point.method)
            return sp.add_soft_prompt(base, tokenizer, point.method, seed=point.seed, task=rows, start=start)
        case "prefix_tuning":
            start = sp.load_start(base, point.method)
            return sp.add_prefix(base, tokenizer, point.method, seed=point.seed, task=rows, start=start)
        case "p_tuning":
            return sp.add_prompt_encoder(base, point.method, seed=point.seed)
        case "lora":
            return sp.add_lora(base, point.method, seed=point.seed)
        case "ia3":
            return sp.add_ia3(base, point.method)
        case _:
            return sp.train_everything(base)


def longest(points: Sequence[sp.Point]) -> int:
    """Return the virtual tokens of the longest soft prompt; 0 without one."""
    return max(int(getattr(point.method, "num_virtual_tokens", 0)) for point in points)


if __name__ == "__main__":
    sp.cli(main)
