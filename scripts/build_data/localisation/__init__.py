"""Texts of user interfaces in English, German, French and Spanish."""
