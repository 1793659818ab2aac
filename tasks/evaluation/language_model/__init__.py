"""Measures of a language model: the n-grams that it must beat."""
