"""Docstrings of Python functions."""
