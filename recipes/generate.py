"""Generate: try an adapter on your own texts, next to the base model's prediction.

    python recipes/generate.py --adapter.path runs/sentiment/prompt_tuning --input.text '["A film to see twice."]'

Texts are put into the prompt template of the run that trained the adapter, and scored over its choices if it has some.
Otherwise a prediction ends as in the evaluation of the run, by its stop texts and its greatest length.
Without texts, the lines of standard input are read. `--sampling.temperature 0.7` samples instead of using the likeliest
token. Nothing is written to disk. The exit code is 2, with one line, for an error that you can fix.
"""

import sys
from functools import partial

import softprompts as sp


def main(model: sp.ModelConfig, adapter: sp.AdapterConfig, input: sp.InputConfig, sampling: sp.SamplingConfig) -> None:  # noqa: A002
    """Print the predictions for each text, of the base model alone and with the adapter."""
    settings = sp.run_settings(adapter.path or "")
    task = sp.task_of_texts(input, settings)
    sp.check_sampling(sampling, task)
    with sp.own_flags():
        base, tokenizer = sp.load_base_model(model, sp.default_device(), task.choices)
        # In this case its classifier comes with the adapter.
        untrained = sp.kind_of(base.config) == "encoder" and bool(sp.facts_of(base).new_parts)
        tuned = sp.load_adapter(base, adapter)
        data = sp.encode(task, tokenizer, sp.input_spec(base, sp.virtual_tokens(tuned)), needs_end=False)
    examples = sp.with_soft_prompt(data, adapter.task_id).test

    engine = sp.make_engine(tuned, tokenizer, config=model, data=data, say=partial(print, file=sys.stderr))
    answers = {}
    if not untrained and sp.has_base(tuned):
        with sp.without_adapter(tuned):
            answers["base model"] = sp.answer(engine, examples, sampling, settings)
    if adapter.path:
        answers["with adapter"] = sp.answer(engine, examples, sampling, settings)

    for index, example in enumerate(examples):
        print(f"\n{example.row.prompt}")
        for who, texts in answers.items():
            print(f"  {who:12}  {texts[index].strip()}")


if __name__ == "__main__":
    sp.cli(main)
