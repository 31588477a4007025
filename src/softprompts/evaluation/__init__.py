"""Predict and score: the test split, manual prompts, votes, comparisons, and a user's own texts."""
