"""How long training takes until validation first reaches a score: this project's recipes against stock PEFT."""
