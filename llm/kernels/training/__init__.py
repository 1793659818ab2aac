"""Kernels that models learn with."""
