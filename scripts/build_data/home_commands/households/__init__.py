"""Rooms, devices and phrases of each language."""
