"""Cleaning that people can inspect: each rule counts its changes, shows examples, and keeps the rows it leaves out."""
