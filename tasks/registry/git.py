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


def git_output(command: str, *arguments: str) -> bytes | None:
    """The output of a git command; None without git, without a repository and without a commit."""
    try:
        words = [*COMMAND, *command.split(), *arguments]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True)
    except OSError:
        return None
    return done.stdout if done.returncode in (0, 1) else None  # 1: `diff --no-index` found a difference


def git_text(command: str, *arguments: str) -> str | None:
    """The same as text, without white space around it."""
    output = git_output(command, *arguments)
    return None if output is None else output.decode(errors="replace").strip()


def fetch_more() -> str:
    """The command that fetches commits which this clone lacks."""
    return "git fetch --unshallow" if git_text("rev-parse --is-shallow-repository") == "true" else "git fetch --all"
