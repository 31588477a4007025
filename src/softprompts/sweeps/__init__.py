"""Sweeps: what is tried, who goes on, and how the best is chosen."""
