"""The benchmark's page, claims, tables and figures, made from its records."""
