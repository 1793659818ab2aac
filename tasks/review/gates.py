"""The gates: requirements that a challenger must meet to become champion.

Their bounds are the section `review` in params.yaml. No gate checks the time for an answer, as it depends on the
machine's load.
"""

import json
import os
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass
from tempfile import TemporaryDirectory

import mlflow

from llm.kernels.c_library import cache_folder
from tasks.data.drift import drift, rows_of
from tasks.params import Gates
from tasks.registry.markup import number, signed
from tasks.registry.tracking import COMMIT, NO_COMMIT, UNCOMMITTED
from tasks.review.compare import Comparison, Difference, Origin

WITHIN = 600  # seconds for the first answer of a version, which another process loads
REASON = 300  # characters of its last message
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
    checked = [_answers(comparison.challenger)]
    for metric, bound in gates.at_least.items():
        checked.append(_bound(comparison, metric, name=f"{metric} at least {bound:g}", low=bound))
    for metric, bound in gates.at_most.items():
        checked.append(_bound(comparison, metric, name=f"{metric} at most {bound:g}", high=bound))
    for metric in gates.no_loss:
        checked += _no_loss(comparison, metric)
    for metric in gates.ahead:
        name = f"a sure lead of {metric} over the baseline"
        checked.append(_difference(name, _change(comparison, metric, beside_champion=False), passing=("better",)))
    if gates.drift is not None and comparison.champion and comparison.challenger.profile:  # tokens have none
        checked.append(_drift(comparison.challenger, comparison.champion, most=gates.drift))
    return [*checked, _is_committed(comparison.challenger)]


def _answers(challenger: Origin) -> Gate:
    """Whether a version answers its own example, with the code that it ships, in a process that has no other.

    The process sees no credentials: of this one's environment it has an allow-list.
    """
    name = "the code that it ships answers"
    kept = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "CC", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
    variables = {variable: os.environ[variable] for variable in kept if variable in os.environ}
    variables["XDG_CACHE_HOME"] = str(cache_folder().parent)  # of kernels in C that are compiled already
    uri = f"models:/{challenger.version.name}/{challenger.number}"
    with TemporaryDirectory() as folder:
        model = mlflow.artifacts.download_artifacts(uri, dst_path=folder)
        command = [sys.executable, "-P", "-c", _ASK, model]
        variables |= dict.fromkeys(("HOME", "TMPDIR"), folder)
        try:
            asked = subprocess.run(
                command, cwd=folder, env=variables, capture_output=True, text=True, errors="replace", timeout=WITHIN
            )
        except subprocess.TimeoutExpired:
            return Gate(name, False, f"no answer within {WITHIN} s")
    if asked.returncode:
        *_, last = asked.stderr.strip().splitlines() or [f"exit code {asked.returncode}"]
        return Gate(name, False, last.strip()[:REASON])
    return Gate(name, True, json.loads(asked.stdout.splitlines()[-1])[:REASON])


_ASK = """
import json, logging, sys
import mlflow
logging.disable(logging.WARNING)
model = mlflow.pyfunc.load_model(sys.argv[1])
answer = model.predict(model.input_example)
strangers = [name for name in ("llm", "tasks") if name in sys.modules
             and not (sys.modules[name].__file__ or sys.argv[1]).startswith(sys.argv[1])]
if strangers:
    sys.exit(f"it does not ship all of its code: {', '.join(strangers)}")
print(json.dumps(str(answer.to_dict("records")[0])))
"""


def _bound(
    comparison: Comparison, metric: str, *, name: str, low: float = -float("inf"), high: float = float("inf")
) -> Gate:
    measured = comparison.metrics.get(metric)
    if measured is None:
        return Gate(name, None, f"this version has no metric {metric}")
    return Gate(name, low <= measured.value <= high, number(measured.value))


def _no_loss(comparison: Comparison, metric: str) -> list[Gate]:
    """The gate against the champion, if there is one, and that against the baseline; beside a champion the second is
    left out if the baseline has no interval."""
    passing = ("better", "the same", "no clear difference")
    name = f"no sure loss of {metric} against the baseline"
    against_baseline = _difference(name, _change(comparison, metric, beside_champion=False), passing=passing)
    if comparison.champion is None:
        return [against_baseline]
    name = f"no sure loss of {metric} against the champion"
    change = _change(comparison, metric, beside_champion=True)
    gate = _difference(name, change, passing=passing, missing=comparison.incomparable or "not measured")
    return [gate] if against_baseline.passed is None else [gate, against_baseline]


def _change(comparison: Comparison, metric: str, *, beside_champion: bool) -> Difference | None:
    measured = comparison.metrics.get(metric)
    return measured.difference(beside_champion=beside_champion) if measured else None


def _difference(
    name: str, difference: Difference | None, *, passing: Collection[str], missing: str = "not measured"
) -> Gate:
    """A gate on the verdict of a difference."""
    if difference is None:
        return Gate(name, None, missing)
    value = signed(difference.value)
    if difference.low is None or difference.high is None:
        return Gate(name, None, f"{value}, without an interval")
    ends = f"95 % interval {signed(difference.low)} to {signed(difference.high)}"
    return Gate(name, difference.verdict in passing, f"{difference.verdict}: {value} ({ends})")


def _drift(challenger: Origin, champion: Origin, most: float) -> Gate:
    """Whether the labels and lengths of its training rows are near enough to the champion's."""
    name = f"its data moved at most {most:g} from the champion's"
    for dataset, now in challenger.profile.items():
        before = champion.profile.get(dataset)
        if before is None:
            return Gate(name, None, f"the champion did not learn {dataset}")
        fewest = min(rows_of(before), rows_of(now))
        if fewest < FEWEST:
            return Gate(name, None, f"{dataset}: {fewest} rows are too few to tell, {FEWEST} are enough")
        moved = drift(before, now)
        furthest = ", ".join(f"{what} {number(index)}" for what, index in list(moved.items())[:3])
        return Gate(name, max(moved.values(), default=0.0) <= most, f"{dataset}: {furthest}")
    return Gate(name, True, "the same data")


def _is_committed(challenger: Origin) -> Gate:
    """Whether a commit holds the code and parameters that made it."""
    tags = challenger.run.data.tags
    commit = tags.get(COMMIT, NO_COMMIT)
    name = "a commit holds what made it"
    if commit == NO_COMMIT:
        return Gate(name, False, "no git commit is known")
    changed = tags.get(UNCOMMITTED)
    return Gate(name, not changed, f"not in git: {changed}" if changed else f"commit {commit[:10]}")
