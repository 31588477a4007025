"""Adapters on disk: found, checked, loaded, saved."""
