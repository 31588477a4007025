"""Measure the time and memory until large data is ready for training."""
