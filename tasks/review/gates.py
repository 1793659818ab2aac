"""What a challenger must hold before it may be champion: numbers from params.yaml, and complete records.

How long an answer takes depends on what else a machine does: the page shows it, and no gate asks for it.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from llm.config import Config
from llm.errors import UserError
from tasks.stages.hashes import locked
from tasks.stages.params import load_application

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from tasks.review.comparison import Comparison, Metric


FEWEST = 200  # rows on each side: in fewer, chance alone moves a property by 0.1 and more


class Gates(Config):
    """What is asked of the challenger's metrics, and of the distance of its data.

    Metrics have the names of the model's evaluation. Answers, data quality, lineage and card are always asked.
    """

    at_least: dict[str, float] = Field(default_factory=dict)
    """Metrics that may not be lower."""
    at_most: dict[str, float] = Field(default_factory=dict)
    """Metrics that may not be higher."""
    no_loss: tuple[str, ...] = ()
    """Metrics in which the challenger may not be surely worse than the champion, or than the baseline where there is no
    champion: the whole 95 % interval of the difference, paired by test row, is on the worse side."""
    drift: Annotated[float, Field(gt=0)] | None = None
    """How far the training data may be from the champion's in any property: population stability index, above 0.25 is
    conventionally large. Null leaves this gate out."""


@dataclass(frozen=True)
class Gate:
    """One thing that is asked, and what was found."""

    name: str
    passed: bool | None
    """None where it could not be computed: then a person decides."""
    said: str


def _limit(metric: "Metric | None", name: str, least: float | None, most: float | None) -> Gate:
    asked = f"{name} at least {least:g}" if most is None else f"{name} at most {most:g}"
    if metric is None:
        return Gate(asked, None, f"this version has no metric {name}")
    return Gate(asked, metric.value <= most if least is None else metric.value >= least, f"{metric.value:.4g}")


def _no_loss(comparison: "Comparison", name: str) -> Gate:
    against = comparison.against
    asked, metric = f"no sure loss of {name} against the {against}", comparison.metrics.get(name)
    if metric is None:
        return Gate(asked, None, f"this version has no metric {name}")
    found = metric.difference(against)
    if found is None:
        return Gate(asked, None, comparison.incomparable or f"the {against} has no {name}")
    if found.is_none:
        return Gate(asked, True, "the same")
    if found.low is None or found.high is None:
        return Gate(asked, None, f"{found.value:+.4f}, without an interval; {comparison.incomparable}".rstrip("; "))
    judged = metric.verdict(against)
    interval = f"{found.value:+.4f} (95 % interval {found.low:+.4f} to {found.high:+.4f})"
    return Gate(asked, judged != "worse", f"{judged}: {interval}")


def _answers(comparison: "Comparison") -> Gate:
    name = "the code that it ships answers"
    if comparison.failed:
        return Gate(name, False, comparison.failed)
    if not comparison.checked:
        return Gate(
            name, None, f"nothing says which rows to ask: there is no tasks/applications/{comparison.model}/review.py"
        )
    said = f"{comparison.checked} {comparison.unit}"
    said += "" if comparison.agreed is None else f", {comparison.agreed} of them scored as in its evaluation"
    return Gate(name, True, said + (f"; {comparison.unanswered} without an answer" if comparison.unanswered else ""))


def _data_quality(model: str, version: "ModelVersion") -> Gate:
    """Whether the data that it learned from passed its checks; known while that data is what is here."""
    from tasks.registry.trained_on import data_of

    name, dataset = "its data passed the checks", load_application(model).dataset
    made, trained = f"data/processed/{dataset}", data_of(version)
    report = Path("reports/quality", dataset, "validation.json")
    try:
        here = locked(f"preprocess@{dataset}").outs.get(made)
    except UserError as error:
        return Gate(name, None, str(error))
    if trained is None or trained.md5 != here:
        learned = trained.md5 if trained else "of no known hash"
        return Gate(name, None, f"it learned from {made} {learned}, and {here} is here")
    if not report.exists():
        return Gate(name, None, f"{report} is missing: run `dvc pull {report.parent}` or `dvc repro`")
    found = json.loads(report.read_text())
    failed = {"fail": [], "warn": []}
    for each in found["expectations"]:
        if not each["success"]:
            failed[each.get("level", "fail")].append(f"{each['column']}: {each['expectation']}")
    warned = f", with warnings: {', '.join(failed['warn'])}" if failed["warn"] else ""
    said = ", ".join(failed["fail"]) or f"{len(found['expectations'])} checks of {dataset}{warned}"
    return Gate(name, bool(found["success"]), said)


def _drift(comparison: "Comparison", most: float) -> Gate:
    """Whether its data is that of the champion, or near enough."""
    from tasks.registry.trained_on import data_of
    from tasks.review.drift import FETCH, moved, rows_of

    name = f"its data moved at most {most:g} from the champion's"
    versions = {"challenger": comparison.challenger, "champion": comparison.champion}
    found = {who: data_of(version) for who, version in versions.items()}
    if lacking := [who for who, data in found.items() if data is None]:
        return Gate(name, None, f"the data of the {' and the '.join(lacking)} is not known")
    mine, its = found.values()
    if mine.dataset != its.dataset:
        return Gate(name, None, f"it learned from {mine.dataset}, the champion from {its.dataset}")
    if mine.md5 == its.md5:
        return Gate(name, True, f"the same {mine.dataset}")
    rows = {who: rows_of(data) for who, data in found.items()}
    if lacking := [f"the {who}'s {found[who].dataset} ({found[who].md5})" for who in rows if rows[who] is None]:
        return Gate(name, None, f"{' and '.join(lacking)}: the rows are not in DVC's cache; {FETCH}")
    if (count := min(map(len, rows.values()))) < FEWEST:
        return Gate(name, None, f"{mine.dataset}: {count} rows are too few to tell, at least {FEWEST} are")
    properties = sorted(moved(rows["champion"], rows["challenger"]), key=lambda each: -each.index)
    far = [each for each in properties if each.index > most]
    said = ", ".join(f"{each.name} {each.index:.3f}" for each in far or properties[:1])
    return Gate(name, not far, f"{mine.dataset}: {said}" + ("" if far else f", the most of {len(properties)}"))


def _lineage(model: str, version: "ModelVersion") -> Gate:
    """Whether it can be made again from what a commit and DVC hold."""
    from tasks.review.changes import commit, record_of, uncommitted

    record, dataset = record_of(version), load_application(model).dataset
    known = {
        "the hash of its weights": f"models/{model}" in record.hashes.outs,
        "the hash of its data": f"data/processed/{dataset}" in record.hashes.deps,
        "the run that trained it": record.facts.get("run.training", "none") != "none",
    }
    lacking = [what for what, is_known in known.items() if not is_known]
    said = [*filter(None, [uncommitted(version)]), *([f"missing: {', '.join(lacking)}"] if lacking else [])]
    return Gate(
        "its lineage is complete", not said, "; ".join(said) or f"commit {commit(version)[:10]}, and every hash"
    )


def _card(version: "ModelVersion") -> Gate:
    from mlflow import MlflowClient

    files = MlflowClient().list_artifacts(version.run_id, "card") if version.run_id else []
    there = any(file.path == "card/card.html" for file in files)
    return Gate("its model card is there", there, "card/card.html" if there else "its run has no card/card.html")


def _gates(comparison: "Comparison", gates: Gates) -> Iterator[Gate]:
    yield _answers(comparison)
    for name, least in gates.at_least.items():
        yield _limit(comparison.metrics.get(name), name, least, None)
    for name, most in gates.at_most.items():
        yield _limit(comparison.metrics.get(name), name, None, most)
    for name in gates.no_loss:
        yield _no_loss(comparison, name)
    if gates.drift is not None and comparison.champion is not None:
        yield _drift(comparison, gates.drift)
    yield _data_quality(comparison.model, comparison.challenger)
    yield _lineage(comparison.model, comparison.challenger)
    yield _card(comparison.challenger)


def check(comparison: "Comparison", gates: Gates) -> list[Gate]:
    """All gates of a comparison's challenger, in the order in which people read them."""
    return list(_gates(comparison, gates))
