"""Measures of a classifier of mails, next to a baseline, and what a reviewer reads beside them."""
