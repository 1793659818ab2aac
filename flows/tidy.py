"""Remove files and versions that nothing needs: `python -m flows.tidy` lists them, `make tidy YES=1` removes them."""

import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from prefect import flow

from llm.errors import UserError
from tasks.registry.tidy import DAY, Item, cache_files, old_versions, training_weights
from tasks.stages.command import run_command
from tasks.stages.lock import STATE, exclusive
from tasks.stages.server import prefect_server, run_as_child
from tasks.training.interrupted import interrupted, remove

TRAININGS = 3  # interrupted trainings that are kept, however old
SHOWN = 10  # items of a kind that are listed without --verbose


def checkpoints_of_trainings(days: float) -> list[Item]:
    """The interrupted trainings that are older than `days` days, without the newest TRAININGS."""
    old = [training for training in interrupted()[TRAININGS:] if training.age > days * DAY]
    return [Item(str(training), training.bytes, partial(remove, training)) for training in old]


@dataclass(frozen=True)
class Kind:
    """Things of one kind that can be removed."""

    name: str
    kept: str
    """Which of them stay."""
    find: Callable[[], Sequence[Item]]


def kinds(versions: int, days: float) -> list[Kind]:
    """What is tidied, in this order: what removed versions leave behind goes in the same run."""
    return [
        Kind(
            name="versions",
            kept=f"the newest {versions} of a model, and any that has an alias, waits for a decision, or is in this "
            "folder, a branch or a tag",
            find=partial(old_versions, versions, days),
        ),
        Kind(
            name="models and checkpoints of trainings",
            kept=f"those of the last {days:g} days, of a version, or in this folder, a branch or a tag",
            find=partial(training_weights, days),
        ),
        Kind(
            name="checkpoints of interrupted trainings",
            kept=f"the newest {TRAININGS}, and those of the last {days:g} days",
            find=partial(checkpoints_of_trainings, days),
        ),
        Kind(
            name="files of DVC's cache",
            kept="those of this folder, a branch, a tag, an experiment, or a version that has an alias or waits",
            find=partial(cache_files, days),
        ),
    ]


@flow(name="tidy", flow_run_name="tidy")
def tidy(versions: int = 5, days: float = 30, delete: bool = False, verbose: bool = False) -> str:
    """List what nothing needs, and remove it if asked to. Returns the list. Raises UserError if a part can't be listed.

    Args:
        versions: how many of the newest versions of each model are kept
        days: how long models, checkpoints and branches of a retraining are kept
        delete: whether to remove it
        verbose: list every item
    """
    lines: list[str] = []
    failed: list[str] = []
    total = 0
    for kind in kinds(versions, days):
        try:
            items = kind.find()
        except UserError as error:  # the other kinds are tidied all the same
            failed.append(f"{kind.name}: {error}")
            continue
        size = sum(item.bytes for item in items)
        total += size
        lines.append(f"{len(items)} {kind.name}, {size / 1e6:.1f} MB; what stays: {kind.kept}")
        if verbose or len(items) <= SHOWN:
            lines += [f"  {item.name}" for item in items]
        if delete:
            for item in items:
                item.remove()
    lines.append(f"{total / 1e6:.1f} MB {'removed' if delete else 'would go; `make tidy YES=1` removes it'}")
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    if failed:
        raise UserError("; ".join(failed))
    return "\n".join(lines)


def main() -> int:
    """List what nothing needs; with --yes, remove it. Returns the exit code."""
    parser = ArgumentParser(prog="python -m flows.tidy", description=__doc__)
    parser.add_argument("--yes", action="store_true", help="remove it")
    parser.add_argument("--versions", type=int, default=5, metavar="N", help="keep the newest N of a model (default 5)")
    parser.add_argument(
        "--days", type=float, default=30, metavar="D", help="keep models and checkpoints for D days (30)"
    )
    parser.add_argument("--verbose", action="store_true", help="list every item, and show the traceback of every error")
    options = parser.parse_args()

    def work() -> None:
        parameters = {
            "versions": options.versions,
            "days": options.days,
            "delete": options.yes,
            "verbose": options.verbose,
        }
        with prefect_server():
            if options.yes:
                with exclusive("retrain", patience=0):
                    run_as_child(tidy, parameters)
            else:
                run_as_child(tidy, parameters)

    return run_command(work, STATE / "tidy" / "log", verbose=options.verbose)


if __name__ == "__main__":
    sys.exit(main())
