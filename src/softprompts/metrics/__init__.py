"""`evaluate` modules kept in the repo, one folder each, so that no metric needs a download."""
