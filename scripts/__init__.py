"""The demo, and programs that build data and documentation."""
