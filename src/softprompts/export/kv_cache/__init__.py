"""Export prefixes as keys and values for an engine's cache, and serve them in vLLM."""
