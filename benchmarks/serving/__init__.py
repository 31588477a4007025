"""Many soft prompts over one base model: how fast, against PEFT's own ways and vLLM, and whether it lasts."""
