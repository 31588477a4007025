"""Commands to a home, and utterances for them."""
