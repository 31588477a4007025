"""Prepare a release: locked versions, advisories, licences, and a check of the built package."""
