"""A DVC stage as a process: parameters, lock, server, lifeline, errors, command line, and the graph of them all."""
