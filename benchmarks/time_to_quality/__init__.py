"""Measure the time of training until validation reaches a score: this project's recipes and stock PEFT."""
