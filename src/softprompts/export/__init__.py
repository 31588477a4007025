"""Adapters for engines other than this project's own."""
