"""Memory of a process when processes share out a base model."""
