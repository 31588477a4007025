"""Measure whether a trained prompt gives away rows of train: secrets that are inserted and then looked for."""
