"""Baselines for soft prompts: methods that change weights or activations, one file each."""
