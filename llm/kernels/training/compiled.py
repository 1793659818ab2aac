"""Parts of a block by torch.compile.

Between its matrix products a block passes over whole tensors many times: casts, norms, rotations, gates, sums. The
compiler makes a few loops of them. Their last bits differ from those of the eager block, but are the same each time.
"""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from functools import cache
from typing import Any

import torch


@cache
def cpp_compiler() -> str | None:
    """The C++ compiler that torch.compile takes and its version, such as `g++ 12.2.0`; None where it can't be used.

    It must find the headers of Python and OpenMP.
    """
    command = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    include = f"-I{sysconfig.get_paths()['include']}"
    try:
        subprocess.run(
            [command, "-fopenmp", "-fsyntax-only", include, "-x", "c++", "-"],
            input="#include <Python.h>\n#include <omp.h>\n",
            text=True,
            capture_output=True,
            check=True,
        )
        asked = subprocess.run([command, "-dumpfullversion", "-dumpversion"], text=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{command} {asked.stdout.strip()}"


def compiled_run() -> Callable[..., Any]:
    """Runs a part of a block, compiled at its first use."""
    compiled = cache(lambda part: torch.compile(part, dynamic=False))
    return lambda part, *inputs: compiled(part)(*inputs)
