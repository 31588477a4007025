"""Write the outputs of runs for readers: record, tables, curves, model card, and pages of comparisons."""
