"""Adapters in the forms that other programs and servers read, each compared with stock PEFT."""
