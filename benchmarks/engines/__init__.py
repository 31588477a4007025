"""What other engines answer with this project's adapters, compared with stock PEFT."""
