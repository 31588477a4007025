"""Checkpoints of training: folders that are whole or not there, checked when read, resumed exactly."""
