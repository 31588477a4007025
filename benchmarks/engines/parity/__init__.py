"""Greedy answers with each form of an export, in each engine, against stock PEFT's."""
