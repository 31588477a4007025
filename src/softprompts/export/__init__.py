"""Export adapters for other programs and servers, and compare each export with stock PEFT."""
