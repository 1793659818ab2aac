"""Stages: the DVC graph, and each stage as a process with its parameters, lock, server, command line and errors."""
