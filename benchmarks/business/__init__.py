"""Compute the monthly cost and return of a task from the benchmark's records and the user's numbers."""
