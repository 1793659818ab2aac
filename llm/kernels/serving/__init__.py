"""Kernels that generate and read texts, but train nothing."""
