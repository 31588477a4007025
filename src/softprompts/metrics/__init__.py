"""`evaluate` modules kept in the project, intervals around their numbers, and what a difference is worth."""
