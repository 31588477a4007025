"""What is put on a base model and trained: one file a method."""
