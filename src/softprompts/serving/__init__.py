"""Serve many soft prompts over one base model, with requests of different soft prompts in one batch."""
