"""Prefect flows: wiring only. One file a stage, and `python -m flows`, which brings everything up to date."""
