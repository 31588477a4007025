"""Interfaces to the machine: files and folders, locks, terminals, logs, memory."""
