"""Every recipe on every embedded task, and the README's table of it."""
