"""The forward pass, packed or PEFT's own, and generation."""
