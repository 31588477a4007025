"""The study: what validation prefers of each method's settings, and what it says of the ways to train them."""
