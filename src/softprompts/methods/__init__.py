"""Methods: each puts trainable parameters on a base model. What they share is here; each has a file below."""
