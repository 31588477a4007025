"""Time of an update and of attention, ours against others'."""
