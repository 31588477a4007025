"""Find, check, load and save adapters."""
