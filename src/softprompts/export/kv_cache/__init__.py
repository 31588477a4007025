"""Prefixes as keys and values for an engine's cache: their files, and the connector that serves them in vLLM."""
