"""Blocks by torch.compile.

Between its matrix products a block passes over whole tensors many times: casts, norms, rotations, gates, sums. The
compiler makes a few loops of them. Their last bits differ from those of the eager block, but are the same each time.
"""

import os
import subprocess
import sys
import sysconfig
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn


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
        version = subprocess.run([command, "-dumpfullversion", "-dumpversion"], text=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{command} {version.stdout.strip()}"


class CompiledBlock(nn.Module):
    """A block of llm/model/gpt.py, with its weights. Its parts before and after attention are compiled at first use."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.attention_norm = block.attention_norm
        self.attention = block.attention
        self.mlp_norm = block.mlp_norm
        self.mlp = block.mlp
        self.dropout = block.dropout
        self.compiled_before = torch.compile(self.before_attention, dynamic=False)
        self.compiled_after = torch.compile(self.after_attention, dynamic=False)

    def forward(self, x_BTC: Tensor, context: Any) -> Tensor:
        """Map BTC to BTC."""
        q_BHTD, k_BKTD, v_BKTD = self.compiled_before(x_BTC, context.angles)
        attended_BHTD = self.attention.attend(q_BHTD, k_BKTD, v_BKTD, context=context)
        return self.compiled_after(x_BTC, attended_BHTD)

    def before_attention(self, x_BTC: Tensor, angles: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, BHTD and twice BKTD."""
        return self.attention.project_qkv(self.attention_norm(x_BTC), angles)

    def after_attention(self, x_BTC: Tensor, attended_BHTD: Tensor) -> Tensor:
        """The stream, BTC, with the outputs of attention and the MLP added to it."""
        x_BTC = x_BTC + self.dropout(self.attention.project_out(attended_BHTD, x_BTC.dtype))
        return x_BTC + self.dropout(self.mlp(self.mlp_norm(x_BTC)))
