"""The settings of a run: sections, YAML files, the command line, and messages about wrong settings."""
