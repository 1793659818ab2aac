"""Git's command: output that is required, and output that may be missing."""

import os
import subprocess
from pathlib import Path

from llm.errors import UserError

QUIET = {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}  # nobody is there to type a password
COMMAND = ("git", "-c", f"core.hooksPath={os.devnull}")  # DVC's hooks would push data, or check it out


def git(
    *arguments: str, folder: Path = Path(), text: str | None = None, seconds: float | None = None, **variables: str
) -> str:
    """The output of a git command, without the end of its last line. Raises UserError with git's reason.

    `text` is its input. It may take `seconds`.
    """
    try:
        done = subprocess.run(
            [*COMMAND, *arguments],
            cwd=folder,
            input=text or "",
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
        lines = [" ".join(line.split()) for line in done.stderr.splitlines()]  # without the hints around the reason
        reasons = (line for line in lines if line.startswith(("! [", "fatal: ", "error: ")))
        raise UserError(f"git {arguments[0]}: {next(reasons, '') or f'exit code {done.returncode}'}")
    return done.stdout.removesuffix("\n")


def git_output(*arguments: str) -> bytes | None:
    """The output of a git command; None without git, without a repository and without a commit."""
    try:
        done = subprocess.run([*COMMAND, *arguments], stdin=subprocess.DEVNULL, capture_output=True)
    except OSError:
        return None
    return done.stdout if done.returncode in (0, 1) else None  # 1: `diff --no-index` found a difference


def git_text(*arguments: str) -> str | None:
    """The same as text, without white space around it."""
    output = git_output(*arguments)
    return None if output is None else output.decode(errors="replace").strip()


def fetch_more() -> str:
    """The command that fetches commits which this clone lacks."""
    return "git fetch --unshallow" if git_text("rev-parse", "--is-shallow-repository") == "true" else "git fetch --all"
