"""Cleaning that you can inspect: each rule counts its changes, shows examples, and keeps the rows that it drops."""
