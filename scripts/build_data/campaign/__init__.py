"""Lines of copy in two voices, for products and their descriptions."""
