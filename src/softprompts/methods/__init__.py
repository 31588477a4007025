"""Methods: each adds trainable parameters to a base model. Shared code is here; each method has a file below."""
