"""What a run leaves for its reader: record, tables, curves, model card, page of a comparison."""
