"""One `evaluate` module a file, each loaded alone."""
