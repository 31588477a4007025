"""Which base model it is, and what its outputs mean."""
