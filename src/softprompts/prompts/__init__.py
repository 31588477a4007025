"""Soft prompts: initial values, and how they are put on a base model. All end as stock PEFT adapters."""
