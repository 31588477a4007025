"""Test runs under faults: kills, full disks, damaged checkpoints, lost processes. No run may lose its work."""
