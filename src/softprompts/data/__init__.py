"""Rows of files, embedded tasks and the Hub, each with the place that it came from."""
