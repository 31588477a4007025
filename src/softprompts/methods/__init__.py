"""Methods: each puts trainable parameters on a base model. One file a method."""
