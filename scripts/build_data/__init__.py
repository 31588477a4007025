"""Build the embedded data from their sources."""
