"""Measure the memory of a process when a base model is sharded over processes."""
