"""The demonstration, and what the embedded data are built by."""
