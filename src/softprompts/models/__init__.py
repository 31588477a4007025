"""Base models: the bundled one, loading, which one it is, what an encoder's outputs mean."""
