"""Run every recipe on every embedded task, and make the tables of the results."""
