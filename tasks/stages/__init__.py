"""A DVC stage as a process: its parameters, lock, server, errors, command line and end, and the graph of all stages."""
