"""Generate parts of the site: recipes, reference of settings, messages, results and README's tables."""
