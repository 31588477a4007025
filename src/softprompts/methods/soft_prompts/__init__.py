"""Soft prompts: one file per method."""
