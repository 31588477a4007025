"""Base models: the bundled one, loading, identity, and the meaning of an encoder's outputs."""
