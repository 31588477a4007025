"""Identify base models, and the meaning of their outputs."""
