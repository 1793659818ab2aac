"""What a challenger must hold before it may be champion: numbers from params.yaml, and that its papers are in order."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from llm.config import Config
from llm.errors import UserError
from tasks.registry.facts import not_in_git
from tasks.stages.hashes import PREFIX, locked
from tasks.stages.params import load_application

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from tasks.review.comparison import Comparison, Metric


class Gates(Config):
    """What is asked of the challenger's numbers, by the names of its metrics, and of its data's distance.

    Metrics are those of the model's evaluation, and `seconds_a_row`, the time of an answer on this machine. Whether its
    data passed its checks, its lineage and its card are always asked.
    """

    at_least: dict[str, float] = Field(default_factory=dict)
    """Metrics that may not be lower."""
    at_most: dict[str, float] = Field(default_factory=dict)
    """Metrics that may not be higher."""
    no_loss: tuple[str, ...] = ()
    """Metrics in which the challenger may not be surely worse than the champion, or than the baseline where there is no
    champion: the 95 % interval of the difference, paired by test row, lies wholly on the worse side."""
    drift: Annotated[float, Field(gt=0)] | None = None
    """How far at most the data that it learned from may be from the champion's, in any property: population stability
    index, by custom much above 0.25. Not asked where it is null."""


@dataclass(frozen=True)
class Gate:
    """One thing that is asked, and what was found."""

    name: str
    passed: bool | None
    """None where it could not be computed, which does not pass."""
    said: str


def _limit(metric: "Metric | None", name: str, least: float | None, most: float | None) -> Gate:
    asked = f"{name} at least {least:g}" if most is None else f"{name} at most {most:g}"
    if metric is None or metric.challenger is None:
        return Gate(asked, None, f"there is no metric {name} of this version")
    passed = metric.challenger <= most if least is None else metric.challenger >= least
    return Gate(asked, passed, f"{metric.challenger:.4g}" + ("" if metric.answered else ", by its own evaluation"))


def _no_loss(comparison: "Comparison", name: str) -> Gate:
    against = comparison.against
    asked, metric = f"no sure loss of {name} against the {against}", comparison.metrics.get(name)
    if metric is None:
        return Gate(asked, None, f"there is no metric {name} of this version")
    found = metric.to_champion if comparison.champion else metric.to_baseline
    if found is None:
        reason = comparison.incomparable or f"the {against} has no {name}"
        return Gate(asked, None, reason)
    if found.low is None or found.high is None:
        return Gate(asked, None, f"{found.value:+.4f}, and nobody knows how sure that is")
    if found.is_none:
        return Gate(asked, True, "the same")
    interval = f"{found.value:+.4f} (95 % interval {found.low:+.4f} to {found.high:+.4f})"
    judgement = metric.verdict(against)
    said = "not told apart" if judgement == "no difference" else judgement
    return Gate(asked, judgement != "worse", f"{said}: {interval}")


def _answers(comparison: "Comparison") -> Gate:
    name = "it answers the test rows"
    if comparison.failed:
        return Gate(name, False, comparison.failed)
    if not comparison.rows:
        return Gate(name, None, f"nothing says which rows: there is no tasks/review/{comparison.model}.py")
    left = f", {comparison.unanswered} of them with an error" if comparison.unanswered else ""
    return Gate(name, True, f"{comparison.rows} {comparison.unit}{left}")


def _data_quality(model: str, version: "ModelVersion") -> Gate:
    """Whether the data that it learned from passed its checks; known while that data is what lies here."""
    name, dataset = "its data passed the checks", load_application(model).dataset
    made, learned = f"data/processed/{dataset}", version.tags.get(f"{PREFIX}.dvc.dep.data/processed/{dataset}")
    report = Path("reports/quality", dataset, "validation.json")
    try:
        here = locked(f"preprocess@{dataset}").outs.get(made)
    except UserError as error:
        return Gate(name, None, str(error))
    if learned is None or learned != here:
        return Gate(name, None, f"it learned from {made} {learned or 'of no known hash'}, and here lies {here}")
    if not report.exists():
        return Gate(name, None, f"{report} is missing: run `dvc pull {report.parent}` or `dvc repro`")
    found = json.loads(report.read_text())
    failed = {"fail": [], "warn": []}
    for each in found["expectations"]:
        if not each["success"]:
            failed[each.get("level", "fail")].append(f"{each['column']}: {each['expectation']}")
    warned = f", but for warnings: {', '.join(failed['warn'])}" if failed["warn"] else ""
    said = ", ".join(failed["fail"]) or f"{len(found['expectations'])} checks of {dataset}{warned}"
    return Gate(name, bool(found["success"]), said)


def _drift(comparison: "Comparison", most: float) -> Gate:
    """Whether its data is that of the champion, or near enough. Without a champion there is nothing to move from."""
    from tasks.registry.trained_on import data_of

    name = f"its data moved at most {most:g} from the champion's"
    if comparison.champion is None:
        return Gate(name, True, "there is no champion yet")
    versions = {"challenger": comparison.challenger, "champion": comparison.champion}
    found = {who: data_of(comparison.model, version) for who, version in versions.items()}
    if lacking := [who for who, data in found.items() if data is None]:
        return Gate(name, None, f"the tags of the {' and the '.join(lacking)} name no data")
    mine, its = found.values()
    if mine.dataset != its.dataset:
        return Gate(name, None, f"it learned from {mine.dataset}, the champion from {its.dataset}")
    if mine.md5 == its.md5:
        return Gate(name, True, f"the same {mine.dataset}")
    from tasks.review.drift import FETCH, moved, moved_by_chance, rows_of

    rows = {who: rows_of(data) for who, data in found.items()}
    if lacking := [f"the {who}'s {found[who].dataset} ({found[who].md5})" for who in rows if rows[who] is None]:
        return Gate(name, None, f"{' and '.join(lacking)}: the rows are not in DVC's cache; {FETCH}")
    sides = rows["champion"], rows["challenger"]
    properties = sorted(moved(*sides), key=lambda each: -each.index)
    far = [each for each in properties if each.index > most]
    if far:
        chance = moved_by_chance(*sides)
        far = [each for each in far if each.index > chance.get(each.name, 0.0)]
        if not far:
            said = f"{properties[0].name} {properties[0].index:.3f}, and chance moves as few rows as these as far"
            return Gate(name, True, f"{mine.dataset}: {said}")
    said = ", ".join(f"{each.name} {each.index:.3f}" for each in far or properties[:1])
    return Gate(name, not far, f"{mine.dataset}: {said}" + ("" if far else f", the most of {len(properties)}"))


def _lineage(model: str, version: "ModelVersion") -> Gate:
    """Whether it can be made again from what a commit and DVC hold."""
    tags, dataset = version.tags, load_application(model).dataset
    needed = {
        "the hash of its weights": f"dvc.out.models/{model}",
        "the hash of its data": f"dvc.dep.data/processed/{dataset}",
        "the run that trained it": "training_run",
    }
    lacking = [what for what, tag in needed.items() if tags.get(f"{PREFIX}.{tag}", "none") == "none"]
    said = [*filter(None, [not_in_git(tags)]), *([f"missing: {', '.join(lacking)}"] if lacking else [])]
    commit = tags.get(f"{PREFIX}.git.commit", "none")
    return Gate("its lineage is complete", not said, "; ".join(said) or f"commit {commit[:10]}, and every hash")


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
    if gates.drift is not None:
        yield _drift(comparison, gates.drift)
    yield _data_quality(comparison.model, comparison.challenger)
    yield _lineage(comparison.model, comparison.challenger)
    yield _card(comparison.challenger)


def check(comparison: "Comparison", gates: Gates) -> list[Gate]:
    """All gates of a comparison's challenger, in the order in which people read them."""
    return list(_gates(comparison, gates))


def all_passed(gates: Sequence[Gate]) -> bool:
    """Whether each is passed; one that could not be computed is not."""
    return all(gate.passed is True for gate in gates)
