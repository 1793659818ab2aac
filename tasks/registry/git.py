"""Git by its own command: what must come out, and what may be unknown."""

import os
import subprocess
from pathlib import Path

from llm.errors import UserError

QUIET = {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}  # nobody is there to type a password
COMMAND = ("git", "-c", f"core.hooksPath={os.devnull}")  # DVC's hooks would push data, or check it out


def git(
    *arguments: str, folder: Path = Path(), given: str | None = None, seconds: float | None = None, **variables: str
) -> str:
    """What a git command prints, without its last line's end. Raises UserError with what git says where it refuses.

    `given` is its input; after `seconds` it is given up.
    """
    try:
        done = subprocess.run(
            [*COMMAND, *arguments],
            cwd=folder,
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            env={**os.environ, **QUIET, **variables},
            timeout=seconds,
        )
    except FileNotFoundError:
        raise UserError("git is not on PATH") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"git {arguments[0]} took longer than {seconds:.0f} s") from None
    if done.returncode:
        raise UserError(f"git {arguments[0]}: {_reason(done.stderr) or f'exit code {done.returncode}'}")
    return done.stdout.removesuffix("\n")


def _reason(said: str) -> str:
    """The line of what git says that is the reason: behind it come hints."""
    lines = [" ".join(line.split()) for line in said.splitlines()]
    reasons = [line for line in lines if line.startswith(("! [", "fatal: ", "error: "))]
    return next(iter(sorted(reasons, key=lambda line: not line.startswith("! ["))), lines[-1] if lines else "")


def git_output(*arguments: str) -> bytes | None:
    """What a git command prints; None without git, without a repository, or without a commit to answer for."""
    try:
        done = subprocess.run([*COMMAND, *arguments], stdin=subprocess.DEVNULL, capture_output=True)
    except OSError:
        return None
    return done.stdout if done.returncode in (0, 1) else None  # 1: `diff --no-index` found what differs


def git_text(*arguments: str) -> str | None:
    """The same as text, without white space around it."""
    output = git_output(*arguments)
    return None if output is None else output.decode(errors="replace").strip()


def fetch_more() -> str:
    """The command that brings commits which this clone lacks."""
    return "git fetch --unshallow" if git_text("rev-parse", "--is-shallow-repository") == "true" else "git fetch --all"
