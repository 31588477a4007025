"""The machine under a run: files and folders, locks, terminals, logs, memory."""
