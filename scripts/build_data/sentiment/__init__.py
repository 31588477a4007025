"""Sentiment of movies, products, tweets and editorials."""
