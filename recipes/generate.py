"""Generate: try an adapter on texts of your own, with the base model's answer beside it.

    python recipes/generate.py --adapter.path runs/sentiment/prompt_tuning --input.text '["A film to see twice."]'

Texts go into the prompt template of the run that trained the adapter, and are scored over its choices where it had
some; without texts the lines of standard input are read. `--sampling.temperature 0.7` draws instead of taking the
likeliest. Nothing is written to disk. Ends with exit code 2 and one line for an error that you can mend.
"""

import sys
from functools import partial

from softprompts.adapters.loading import AdapterConfig, load_adapter, run_settings, virtual_tokens
from softprompts.adapters.switch import has_base, without_adapter
from softprompts.config.cli import cli
from softprompts.config.sections import ModelConfig
from softprompts.engine.build import make_engine
from softprompts.evaluation.interactive import InputConfig, SamplingConfig, answer, own_flags, task_of_texts
from softprompts.models.loading import input_spec, kind_of, load_base_model
from softprompts.tasks.tokenization import behind, encode

from accelerate import Accelerator


def main(model: ModelConfig, adapter: AdapterConfig, input: InputConfig, sampling: SamplingConfig) -> None:  # noqa: A002
    """Print for each text what the base model answers, and what it answers with the adapter."""
    task = task_of_texts(input, run_settings(adapter.path or ""))
    with own_flags():
        base, tokenizer = load_base_model(model, Accelerator().device, task.choices)
        untrained = kind_of(base.config) == "encoder" and bool(base.new_parts)  # its classifier comes with the adapter
        tuned = load_adapter(base, adapter)
        data = encode(task, tokenizer, input_spec(base, virtual_tokens(tuned)), needs_end=False)
    examples = behind(data, adapter.task_id).test

    engine = make_engine(tuned, tokenizer, model, data, partial(print, file=sys.stderr))
    answers = {}
    if not untrained and has_base(tuned):
        with without_adapter(tuned):
            answers["base model"] = answer(engine, examples, sampling)
    if adapter.path:
        answers["with adapter"] = answer(engine, examples, sampling)

    for index, example in enumerate(examples):
        print(f"\n{example.row.prompt}")
        for who, texts in answers.items():
            print(f"  {who:12}  {texts[index].strip()}")


if __name__ == "__main__":
    cli(main)
