"""Measure the time of a training step and of attention, ours and that of others."""
