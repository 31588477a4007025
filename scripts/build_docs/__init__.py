"""The documentation site's generated parts: recipes, reference of settings, messages, results and README's tables."""
