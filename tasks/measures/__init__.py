"""Measures that applications share, by the objective that they were trained for."""
