"""Serving: one base model, many soft prompts, requests of all of them in one batch."""
