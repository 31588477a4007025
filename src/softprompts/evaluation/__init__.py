"""Predict and score: the test split, hard prompts, votes, comparisons, and a user's own texts."""
