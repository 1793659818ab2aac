"""C sources: built once by the machine's own compiler, and loaded.

The compiler targets this kind of processor, so a built file runs on this machine only. It is kept in the user's cache
folder under a hash of the source, the compiler, its options and the processor. It is linked without an OpenMP of its
own and finds torch's, which the process has already: two would fight for the cores.

A loaded file can do whatever its user can, so only this user may be able to write the folder and the file.
"""

import ctypes
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from llm.errors import UserError
from llm.files import write_atomic
from llm.kernels.processor import processor

COMPILERS = ("gcc", "cc", "clang")  # torch on Linux has gcc's OpenMP, in which clang's calls are not found
COMPILE = (
    "-O3",
    "-std=gnu11",
    "-fopenmp",
    "-fPIC",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-c",
)
PATIENCE = 120  # seconds that a compiler may take

logger = logging.getLogger(__name__)


class NotBuiltError(Exception):
    """The reason why a source can't be used here."""


def cache_folder() -> Path:
    """Where built files are kept for this user, by the XDG base directory specification."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "threestage"


def _output(*command: str) -> str:
    """The standard output of a command. Raises NotBuiltError, with its first error, where it fails."""
    environment = os.environ | {"LC_ALL": "C"}
    try:
        process = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            check=True,
            timeout=PATIENCE,
        )
    except OSError as error:
        raise NotBuiltError(f"{command[0]} can't be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise NotBuiltError(f"{command[0]} took longer than {PATIENCE} s") from None
    except subprocess.CalledProcessError as error:
        errors = [line for line in error.stderr.splitlines() if "error:" in line] or [f"exit code {error.returncode}"]
        raise NotBuiltError(f"{command[0]} failed: {errors[0]}") from None
    return process.stdout


def _processor() -> str:
    """The properties of the processor that -march=native depends on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().split("\n\n")[0].splitlines() if cpuinfo.exists() else []
    properties = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))]
    return "\n".join([platform.machine(), *properties])


def _compiler() -> str:
    """The C compiler's path: that of CC, where it is set. Raises NotBuiltError where there is none."""
    chosen = os.environ.get("CC")
    commands = (chosen,) if chosen else COMPILERS
    for command in commands:
        if program := shutil.which(command):
            return program
    raise NotBuiltError(f"there is no C compiler ({', '.join(commands)})")


def _is_private(path: Path) -> bool:
    """Whether this user alone may write there, whatever the umask was."""
    status = path.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def build(sources: Sequence[Path], folder: Path) -> Path:
    """The shared object for this machine in a folder, made where there is none. Raises NotBuiltError, why not.

    The first source is compiled, the others are what it includes. A file that others could have written is built
    again; a folder in which they could exchange it is refused.
    """
    compiler = _compiler()
    path = folder / f"{sources[0].stem}-{_fingerprint(sources, compiler)}.so"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_private(folder):
        raise NotBuiltError(f"{folder} is another user's, or others may write there (chmod go-w {folder})")
    if not (path.exists() and _is_private(path)):
        logger.info("building %s, which takes some seconds, once", sources[0].name)
        _compile(sources[0], compiler, path)
    return path


def _fingerprint(sources: Sequence[Path], compiler: str) -> str:
    """A hash of all that a built file depends on."""
    texts = (compiler, _output(compiler, "--version"), *COMPILE, processor().march, _processor())
    parts = [source.read_bytes() for source in sources]
    parts += [os.fsencode(text) for text in texts]
    return sha256(b"\0".join(parts)).hexdigest()[:32]


def _compile(source: Path, compiler: str, path: Path) -> None:
    """Compile a source, link it, and put it at `path`, flushed to disk."""
    with tempfile.TemporaryDirectory(dir=path.parent) as temporary:  # its own, as others may build at the same time
        compiled = Path(temporary, f"{source.stem}.o")
        linked = Path(temporary, f"{source.stem}.so")
        private = Path(temporary, f"{source.stem}.private")
        target = f"-march={processor().march}".split()
        compile_command = [compiler, *COMPILE, *target, str(source), "-o", str(compiled)]
        link_command = [compiler, "-shared", str(compiled), "-o", str(linked), "-lm"]
        _output(*compile_command)
        _output(*link_command)
        write_atomic(private, linked.read_bytes())
        private.chmod(0o600)  # the umask may let a group write
        private.replace(path)


def load(sources: Sequence[Path]) -> ctypes.CDLL | None:
    """The built library; None where it can't be used, with the reason in the log. Callers cache it."""
    try:
        return ctypes.CDLL(str(build(sources, cache_folder())))
    except (NotBuiltError, OSError, UserError, RuntimeError) as error:  # the last: a user without a home
        logger.warning("%s, which is faster than torch, can't be used: %s", sources[0].name, error)
        return None
