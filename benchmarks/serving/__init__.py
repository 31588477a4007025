"""Serve many soft prompts over one base model: measure speed against PEFT and vLLM, and stability under load."""
