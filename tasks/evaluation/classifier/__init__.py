"""Measures of a classifier of mails: ways to hide spam from it."""
