"""Git's command: output that is required, and output that may be missing.

A call names its command as one would type it, such as `git("branch --no-track", name)`: the words of the first text are
arguments of their own, and further texts are each one argument, whatever is in them.
"""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from llm.errors import UserError

QUIET = {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}  # nobody is there to type a password
COMMAND = ("git", "-c", f"core.hooksPath={os.devnull}")  # DVC's hooks would push data, or check it out


def git(
    command: str,
    *arguments: str,
    folder: Path = Path(),
    text: str = "",
    seconds: float | None = None,
    variables: Mapping[str, str] | None = None,
) -> str:
    """The output of a git command, without the end of its last line. Raises UserError with git's reason.

    `text` is its input. It may take `seconds`. `variables` are added to its environment.
    """
    name = command.split()[0]
    try:
        done = subprocess.run(
            [*COMMAND, *command.split(), *arguments],
            cwd=folder,
            input=text,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            env={**os.environ, **QUIET, **(variables or {})},
            timeout=seconds,
        )
    except FileNotFoundError:
        raise UserError("git is not on PATH") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"git {name} took longer than {seconds:.0f} s") from None
    if done.returncode:
        lines = [" ".join(line.split()) for line in done.stderr.splitlines()]  # without the hints around the reason
        reasons = [line for line in lines if line.startswith(("! [", "fatal: ", "error: "))]
        raise UserError(f"git {name}: {reasons[0] if reasons else f'exit code {done.returncode}'}")
    return done.stdout.removesuffix("\n")


def git_text(command: str, *arguments: str) -> str | None:
    """The output of a git command; None without git, without a repository and without a commit."""
    try:
        return git(command, *arguments)
    except UserError:
        return None
