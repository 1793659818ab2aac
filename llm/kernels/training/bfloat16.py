"""What the kernels on bfloat16.h have in common."""

from pathlib import Path

PANEL = 64
"""Widths that the kernels can work with are multiples of it: WIDE in bfloat16.h."""
HEADER = Path(__file__).with_name("bfloat16.h")
