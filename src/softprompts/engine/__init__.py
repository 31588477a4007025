"""The forward pass, packed or PEFT's own, and how an answer is written."""
