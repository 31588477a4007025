"""Metrics as `evaluate` modules that need no download, confidence intervals, and tests of differences."""
