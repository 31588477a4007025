"""Training: one soft prompt, or several side by side."""
