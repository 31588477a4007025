"""Methods: each puts trainable parameters on a base model. Here is what they share; each has a file in a folder below."""
