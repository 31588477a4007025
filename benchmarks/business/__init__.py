"""What a task costs and returns per month, from the benchmark's records and a few numbers of the user's."""
