"""Measures of a language model: the n-grams that it must beat, with and without a cache."""
