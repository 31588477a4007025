"""What a model makes of the rows: scores, written prompts, votes, comparisons, texts of your own."""
