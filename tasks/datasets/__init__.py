"""The datasets: one file each, which says how to read it, which rows are equal, and what to expect of it.

A dataset is a module here with a `DATASET`, a block under `datasets` in params.yaml, and a test.
"""
