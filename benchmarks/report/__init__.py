"""Make the benchmark's page, claims, tables and figures from its records."""
