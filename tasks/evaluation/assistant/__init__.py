"""Measures of an assistant: right answers, ROUGE-L, and a judge."""
