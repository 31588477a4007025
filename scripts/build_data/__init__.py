"""The embedded data, built again from their sources."""
