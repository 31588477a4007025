"""Measure the time of a training step and of attention, in this project and in others."""
