"""Commands to a home, and what somebody says for them."""
