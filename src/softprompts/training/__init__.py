"""Train one soft prompt, or several in the same forward passes."""
