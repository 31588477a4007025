"""Generate: try an adapter on texts of your own, with the base model's answer beside it.

    python recipes/generate.py --adapter.path runs/sentiment/prompt_tuning --input.text '["A film to see twice."]'

Texts go into the prompt template of the run that trained the adapter, and are scored over its choices where it had
some; without texts the lines of standard input are read. `--sampling.temperature 0.7` draws instead of taking the
likeliest. Nothing is written to disk. Ends with exit code 2 and one line for an error that you can mend.
"""

import sys
from functools import partial

import softprompts as sp


def main(model: sp.ModelConfig, adapter: sp.AdapterConfig, input: sp.InputConfig, sampling: sp.SamplingConfig) -> None:  # noqa: A002
    """Print for each text what the base model answers, and what it answers with the adapter."""
    task = sp.task_of_texts(input, sp.run_settings(adapter.path or ""))
    with sp.own_flags():
        base, tokenizer = sp.load_base_model(model, sp.default_device(), task.choices)
        # Then its classifier comes with the adapter.
        untrained = sp.kind_of(base.config) == "encoder" and bool(sp.facts_of(base).new_parts)
        tuned = sp.load_adapter(base, adapter)
        data = sp.encode(task, tokenizer, sp.input_spec(base, sp.virtual_tokens(tuned)), needs_end=False)
    examples = sp.with_soft_prompt(data, adapter.task_id).test

    engine = sp.make_engine(tuned, tokenizer, config=model, data=data, say=partial(print, file=sys.stderr))
    answers = {}
    if not untrained and sp.has_base(tuned):
        with sp.without_adapter(tuned):
            answers["base model"] = sp.answer(engine, examples, sampling)
    if adapter.path:
        answers["with adapter"] = sp.answer(engine, examples, sampling)

    for index, example in enumerate(examples):
        print(f"\n{example.row.prompt}")
        for who, texts in answers.items():
            print(f"  {who:12}  {texts[index].strip()}")


if __name__ == "__main__":
    sp.cli(main)
