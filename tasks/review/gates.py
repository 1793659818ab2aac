"""The gates: requirements that a challenger must meet to become champion.

Their bounds are the section `review` in params.yaml. No gate checks the time for an answer, as it depends on the
machine's load: the page shows it.
"""

from collections.abc import Collection
from dataclasses import dataclass

import pandas as pd
from mlflow.entities.model_registry import ModelVersion

from tasks.data.drift import FETCH, moved
from tasks.params import Gates, load_block
from tasks.registry.markup import number, signed
from tasks.registry.trained_on import TrainedOn, current_md5, current_rows, data_of, rows_before
from tasks.review.changes import origin
from tasks.review.comparison import Comparison
from tasks.review.metrics import BASE

FEWEST = 200  # rows on each side: with fewer, chance alone moves a property by 0.1 and more


@dataclass(frozen=True)
class Gate:
    """A requirement, and whether it is met."""

    name: str
    passed: bool | None
    """None if it could not be computed: then a person decides."""
    finding: str


def check(comparison: Comparison, gates: Gates) -> list[Gate]:
    """All gates of a comparison's challenger, in reading order."""
    model, version, champion = comparison.model, comparison.challenger, comparison.champion
    return [
        _answers(comparison),
        *(_bound(comparison, name, side="at least", bound=bound) for name, bound in gates.at_least.items()),
        *(_bound(comparison, name, side="at most", bound=bound) for name, bound in gates.at_most.items()),
        *(gate for name in gates.no_loss for gate in _no_losses(comparison, name)),
        *(_ahead(comparison, name) for name in gates.ahead),
        *([_drift(version, champion, gates.drift)] if gates.drift is not None and champion else []),
        _lineage(model, version),
    ]


def _answers(comparison: Comparison) -> Gate:
    name = "the code that it ships answers"
    if comparison.failed:
        return Gate(name, False, comparison.failed)
    if not comparison.checked:
        file = f"tasks/applications/{comparison.model}/measure.py"
        return Gate(name, None, f"nothing says which rows to ask: {file} names none")
    agreed = "" if comparison.agreed is None else f", {comparison.agreed} of them scored as in its evaluation"
    return Gate(name, True, f"{comparison.checked} {comparison.unit}{agreed}")


def _bound(comparison: Comparison, metric: str, *, side: str, bound: float) -> Gate:
    name = f"{metric} {side} {bound:g}"
    measured = comparison.metrics.get(metric)
    if measured is None:
        return Gate(name, None, f"this version has no metric {metric}")
    value = measured.value
    return Gate(name, value >= bound if side == "at least" else value <= bound, number(value))


def _no_losses(comparison: Comparison, metric: str) -> list[Gate]:
    """The gates against champion and baseline; with a champion that against the baseline only if it has an interval."""
    gates = [_no_loss(comparison, metric, comparison.against)]
    measured = comparison.metrics.get(metric)
    to_baseline = measured and measured.to_baseline
    if comparison.champion and to_baseline and to_baseline.verdict != "not known":
        gates.append(_no_loss(comparison, metric, BASE))
    return gates


def _no_loss(comparison: Comparison, metric: str, against: str) -> Gate:
    name = f"no sure loss of {metric} against the {against}"
    passing = ("better", "no clear difference")
    return _difference(comparison, metric, against=against, name=name, passing=passing)


def _ahead(comparison: Comparison, metric: str) -> Gate:
    name = f"a sure lead of {metric} over the baseline"
    return _difference(comparison, metric, against=BASE, name=name, passing=("better",))


def _difference(comparison: Comparison, metric: str, *, against: str, name: str, passing: Collection[str]) -> Gate:
    """A gate on the verdict of a difference."""
    measured = comparison.metrics.get(metric)
    if measured is None:
        return Gate(name, None, f"this version has no metric {metric}")
    reason = comparison.incomparable if against == comparison.against else ""
    if (difference := measured.difference(against)) is None:
        return Gate(name, None, reason or f"the {against} has no {metric}")
    if difference.is_none:
        return Gate(name, "no clear difference" in passing, "the same")
    if difference.low is None or difference.high is None:
        return Gate(name, None, f"{signed(difference.value)}, without an interval; {reason}".rstrip("; "))
    ends = f"95 % interval {signed(difference.low)} to {signed(difference.high)}"
    return Gate(name, difference.verdict in passing, f"{difference.verdict}: {signed(difference.value)} ({ends})")


def _drift(challenger: ModelVersion, champion: ModelVersion, most: float) -> Gate:
    """Whether its training data is near enough to the champion's."""
    name = f"its data moved at most {most:g} from the champion's"
    new_data = data_of(challenger)
    old_data = data_of(champion)
    if new_data is None or old_data is None:
        return Gate(name, None, f"the data of the {'champion' if new_data else 'challenger'} is not known")
    if new_data == old_data:
        return Gate(name, True, f"the same {new_data.dataset}")
    now = _train_rows(new_data)
    before = _train_rows(old_data)
    if now is None:
        gone = f"the challenger's {new_data.dataset} ({new_data.md5})"
        return Gate(name, None, f"the rows of {gone} are not in DVC's cache: {FETCH}")
    if before is None:
        return Gate(name, None, f"the rows of the champion's ({old_data.md5}) are not in DVC's cache: {FETCH}")
    if (count := min(len(now), len(before))) < FEWEST:
        return Gate(name, None, f"{new_data.dataset}: {count} rows are too few to tell, {FEWEST} are enough")
    properties = sorted(moved(before, now), key=lambda move: -move.index)
    far = [move for move in properties if move.index > most]
    shown = ", ".join(f"{move.name} {number(move.index)}" for move in far or properties[:1])
    return Gate(name, not far, f"{new_data.dataset}: {shown}" + ("" if far else f", the most of {len(properties)}"))


def _train_rows(data: TrainedOn) -> pd.DataFrame | None:
    """The train rows of a version, from the workspace or from DVC's cache; None if neither has them."""
    return current_rows(data.dataset) if current_md5(data.dataset) == data.md5 else rows_before(data)


def _lineage(model: str, version: ModelVersion) -> Gate:
    """Whether a commit and DVC hold everything that is needed to make it again."""
    made_from, dataset = origin(version), load_block(model).dataset
    hashes = made_from.record.hashes
    is_recorded = {
        "the hash of its weights": f"models/{model}" in hashes.outs,
        "the hash of its data": f"data/processed/{dataset}" in hashes.deps,
        "the run that trained it": made_from.record.facts.get("run.training", "none") != "none",
    }
    missing = ", ".join(part for part, is_there in is_recorded.items() if not is_there)
    gaps = [*filter(None, [made_from.uncommitted, missing and f"missing: {missing}"])]
    return Gate(
        "its lineage is complete", not gaps, "; ".join(gaps) or f"commit {made_from.commit[:10]}, and every hash"
    )
