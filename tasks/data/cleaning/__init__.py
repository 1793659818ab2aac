"""Cleaning that a person can look at: what a rule changes is counted with examples, what it leaves out is kept."""
