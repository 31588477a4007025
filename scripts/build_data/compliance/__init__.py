"""Licence notices and terms, and the policy category that they belong to."""
