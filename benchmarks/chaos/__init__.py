"""Faults, each tried: kills, full disks, damaged checkpoints, lost processes; nothing may be lost."""
