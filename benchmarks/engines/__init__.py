"""Compare other engines' answers with this project's adapters with those of stock PEFT."""
