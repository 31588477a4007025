"""Compare greedy answers with each form of an export, in each engine, with stock PEFT's."""
