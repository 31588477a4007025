"""One `evaluate` module per file, each loaded separately."""
