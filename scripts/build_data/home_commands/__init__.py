"""Commands for a home, in four languages, as JSON."""
