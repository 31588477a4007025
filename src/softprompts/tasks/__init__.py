"""Rows become a task: prompts, targets and choices, as text and as tokens."""
