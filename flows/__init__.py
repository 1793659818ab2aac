"""Prefect flows: wiring only. One file a stage, and `python -m flows`, which brings everything up to date."""

import gc
import sys

if sys.argv[0] == "-m":  # a command line: to look for garbage among what it imports takes a quarter of its start
    gc.disable()  # until `run_command`
