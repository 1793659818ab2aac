"""Prefect flows: wiring only. One file a stage, and `python -m flows`, which brings everything up to date."""

import gc
import sys

if sys.argv[0] == "-m":  # a command line: garbage collection during its imports takes a quarter of its start
    gc.disable()  # until `run_command`
