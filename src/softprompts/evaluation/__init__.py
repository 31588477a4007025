"""Answers to the rows and their scores; written prompts, votes, comparisons, texts of your own."""
