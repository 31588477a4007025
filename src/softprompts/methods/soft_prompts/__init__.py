"""Soft prompts: one file a method."""
