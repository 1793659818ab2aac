"""Remove files and versions that nothing needs: `threestage tidy` lists them, `threestage tidy --yes` removes them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from prefect import flow

from llm.errors import UserError
from tasks.registry.tidy import DAY, Item, cache_files, old_versions, training_weights
from tasks.training.interrupted import interrupted, remove

TRAININGS = 3  # interrupted trainings that are kept, however old
SHOWN = 10  # items of a kind that are listed without --verbose


@dataclass(frozen=True)
class Kind:
    """A kind of items that may go."""

    name: str
    kept: str
    """Which of them stay, in words."""
    find: Callable[[], Sequence[Item]]


class NotListedError(UserError):
    """Some kinds could not be listed; `listing` has the others."""

    def __init__(self, reasons: Sequence[str], listing: str) -> None:
        super().__init__("; ".join(reasons))
        self.listing = listing


def checkpoints_of_trainings(days: float) -> list[Item]:
    """The interrupted trainings that are older than `days` days, without the newest TRAININGS."""
    old = [training for training in interrupted()[TRAININGS:] if training.age > days * DAY]
    return [Item(str(training), training.bytes, partial(remove, training)) for training in old]


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
    """List what nothing needs, and remove it if asked to. Returns the list.

    Raises NotListedError at the end if a kind can't be listed; the others are tidied all the same.

    Args:
        versions: how many of the newest versions of each model are kept
        days: how long models, checkpoints and branches of a retraining are kept
        delete: whether to remove it
        verbose: list every item
    """
    lines: list[str] = []
    failures: list[str] = []
    total = 0
    for kind in kinds(versions, days):
        try:
            items = kind.find()
        except UserError as error:
            failures.append(f"{kind.name}: {error}")
            continue
        size = sum(item.bytes for item in items)
        total += size
        lines.append(f"{len(items)} {kind.name}, {size / 1e6:.1f} MB; what stays: {kind.kept}")
        if verbose or len(items) <= SHOWN:
            lines += [f"  {item.name}" for item in items]
        if delete:
            for item in items:
                item.remove()
    outcome = "removed" if delete else "would go; `make tidy YES=1` removes it"
    lines.append(f"{total / 1e6:.1f} MB {outcome}")
    listing = "\n".join(lines)
    if failures:
        raise NotListedError(failures, listing)
    return listing
