"""Faster ways to compute what torch computes; who reads the model never needs them."""
