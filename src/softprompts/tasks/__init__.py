"""Make tasks from rows: prompts, targets and choices."""
