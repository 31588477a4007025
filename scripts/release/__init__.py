"""What a release needs: locked versions, advisories, licences, and a check of the built package."""
