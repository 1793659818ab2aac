"""Remove what nothing needs any more: `python -m flows.gc`, which only says what that is, and `make gc YES=1`."""

import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

TRAININGS = 3  # interrupted ones that stay, however old
SHOWN = 10  # of a kind, without --verbose


@dataclass(frozen=True)
class Kind:
    """One kind of what may go."""

    name: str
    kept: str
    """What of it stays."""
    find: Callable[[], Sequence[Any]]
    remove: Callable[[Sequence[Any]], object]
    sized: bool = True
    """Whether each that is found counts its bytes."""


def main() -> int:
    """Say what would go and how many bytes that is; with --yes, remove it. The exit code."""
    parser = ArgumentParser(
        prog="python -m flows.gc",
        description="Remove old versions, checkpoints, Prefect runs and cache files of DVC; without --yes, name them.",
    )
    parser.add_argument("--yes", action="store_true", help="remove it")
    parser.add_argument("--versions", type=int, default=5, metavar="N", help="keep the newest N of a model (default 5)")
    parser.add_argument("--days", type=float, default=30, metavar="D", help="keep checkpoints and runs as long (30)")
    parser.add_argument("--verbose", action="store_true", help="name each, and show the traceback of every error")
    options = parser.parse_args()

    from llm.errors import UserError

    try:
        return _collect(max(0, options.versions), options.days, remove=options.yes, verbose=options.verbose)
    except UserError as error:
        if options.verbose:
            raise
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


def _collect(versions: int, days: float, *, remove: bool, verbose: bool) -> int:
    """Each kind by itself: where one can't be told, the others are. The exit code."""
    from llm.errors import UserError
    from tasks.registry.retention import needed_hashes, old_versions, remove_versions
    from tasks.stages.lock import exclusive
    from tasks.stages.retention import cache_files, old_flow_runs, remove_cache_files, remove_flow_runs
    from tasks.stages.server import prefect_server
    from tasks.training.interrupted import DAY, interrupted
    from tasks.training.interrupted import remove as remove_checkpoints

    kinds = [
        Kind(
            "versions",
            f"the newest {versions} of a model, and any with an alias, before a review, of what is here now or of "
            "a branch or tag",
            lambda: old_versions(versions),
            remove_versions,
        ),
        Kind(
            "checkpoints of interrupted trainings",
            f"the newest {TRAININGS}, and those of the last {days:g} days",
            lambda: [each for each in interrupted()[TRAININGS:] if each.age > days * DAY],
            lambda found: remove_checkpoints(found, days, 0),
        ),
        Kind(
            "files of DVC's cache",
            "what this folder, a branch, a tag, an experiment or a version with an alias has",
            lambda: cache_files(needed_hashes()),
            remove_cache_files,
        ),
        Kind(
            "runs in Prefect",
            f"those of the last {days:g} days, and of other folders",
            lambda: old_flow_runs(days),
            remove_flow_runs,
            sized=False,
        ),
    ]
    failed, total = False, 0
    with exclusive("retrain", patience=0), prefect_server():
        for kind in kinds:
            try:
                found = kind.find()
            except UserError as error:
                if verbose:
                    raise
                failed = True
                sys.stderr.write(f"error: {kind.name}: {error}\n")
                continue
            bytes_ = sum(each.bytes for each in found) if kind.sized else 0
            size = f", {bytes_ / 1e6:.1f} MB" if kind.sized else ""
            sys.stdout.write(f"{len(found)} {kind.name}{size}; what stays: {kind.kept}\n")
            for each in found if verbose or len(found) <= SHOWN else []:
                sys.stdout.write(f"  {each}\n")
            if remove and found:
                kind.remove(found)
            total += bytes_
    done = "removed" if remove else "would go; `make gc YES=1` removes it"
    sys.stdout.write(f"{total / 1e6:.1f} MB {done}\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
