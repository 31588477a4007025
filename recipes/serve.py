"""Serve: one base model and many soft prompts over HTTP, for OpenAI's clients and others.

    python recipes/serve.py --serve.folder runs

Each adapter is a model name: `curl localhost:8000/v1/models` lists them, `http://localhost:8000` is a page to try them.
Requests of different tasks are answered in one batch. `--serve.adapters '{sentiment: runs/sentiment/prompt_tuning}'`
names adapters one by one. An adapter that cannot be served is reported with its reason, and the others are served.

SIGTERM or Ctrl-C ends the server after it has answered its requests. The exit code is 2, with one line, for an
error that you can fix.
"""

import softprompts as sp


def main(model: sp.ModelConfig, serve: sp.ServeConfig) -> None:
    """Load the base model and the adapters, and serve them until a signal."""
    sp.check_served(model)
    base, tokenizer = sp.load_base_model(model, sp.default_device())
    tasks = sp.load_tasks(base, tokenizer, serve)
    sp.run_server(tasks, serve)


if __name__ == "__main__":
    sp.cli(main)
