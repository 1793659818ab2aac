"""Prefect flows, and wiring only: which task, in which order, with which parameters. `threestage` runs them."""
