"""The folder of a run: its owner, its inputs, its record."""
