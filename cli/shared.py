"""Code that commands share: options, the registry and its versions, output for people and programs."""

import codecs
import gc
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from llm.errors import UserError

if TYPE_CHECKING:  # commands load libraries when they need them, so that --help takes a moment
    from app.versions import LoadedVersion, Versions

SOME_FAILED = 3
"""Exit code: some mails or questions had no answer."""
Verbose = Annotated[bool, typer.Option("--verbose", help="Show the traceback of every error.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for a program.")]
Guard = Annotated[
    bool,
    typer.Option(
        "--guard/--no-guard",
        envvar="THREESTAGE_GUARD",
        show_envvar=False,
        help="Let a registered guard read what users ask; it may answer instead of the assistant.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="By name its champion, or its challenger if it never had one; or NAME@ALIAS, NAME/VERSION. By default "
        "the first that can do this.",
    ),
]


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import without garbage collections, which take a quarter of the time; modules are never garbage."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def tracebacks(verbose: bool) -> Iterator[None]:
    """Print the traceback of an error before its line, if asked to."""
    try:
        yield
    except UserError:
        if verbose:
            traceback.print_exc()
        raise


def run_and_exit(name: str, work: Callable[[], str | None], verbose: bool) -> NoReturn:
    """Do a command's work with a log in .threestage/NAME/, and end with its exit code."""
    from tasks.stages.lock import STATE
    from tasks.stages.process import run_command

    raise typer.Exit(run_command(work, STATE / name / "log", verbose=verbose))


def to_person(line: str) -> None:
    """Print a line on stderr, after the answers so far, even if nobody reads those."""
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.stderr.write(f"{line}\n")


def print_json(row: dict[str, Any]) -> None:
    """Print a row, with JSON's escapes if the output is not UTF-8."""
    is_utf_8 = codecs.lookup(sys.stdout.encoding or "ascii").name == "utf-8"
    typer.echo(json.dumps(row, ensure_ascii=not is_utf_8))


def missing_store() -> Path | None:
    """The file of a local registry that does not exist yet."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    path = Path(uri.removeprefix("sqlite:///"))
    return path if uri.startswith("sqlite:///") and not path.exists() else None


def check_store() -> None:
    """Raise UserError if there is no registry."""
    if path := missing_store():
        raise UserError(f"{path.absolute()}: there is no registry; `threestage run` makes it, in the project's folder")


@contextmanager
def loaded_version(model: str | None, capability: str) -> Iterator["LoadedVersion"]:
    """A version that answers one question at a time; raises as `load`."""
    check_store()
    with open_versions() as versions:
        yield load(versions, model, capability)


def load(versions: "Versions", model: str | None, capability: str) -> "LoadedVersion":
    """A version, after a line on stderr if nobody has approved it.

    Raises UserError if it does not exist or can't do this.
    """
    loaded = versions.get(model, capability)
    if versions.is_unapproved(loaded.name):
        to_person(f"{loaded.registered_name} is not approved: its model has had no champion yet")
    return loaded


@contextmanager
def open_versions() -> Iterator["Versions"]:
    """The registry's versions, for one question at a time."""
    from app.settings import Settings
    from app.versions import Versions

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    versions = Versions(Settings(rows=1, queue=1))  # a question may wait until a stopped one has left
    try:
        yield versions
    finally:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Python must not end under a thread that computes
        versions.close(0)
        signal.signal(signal.SIGINT, before)
