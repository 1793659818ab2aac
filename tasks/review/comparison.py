"""Challenger against champion and baseline: the same rows asked of both, and what came of it as numbers."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from llm.errors import UserError
from tasks.evaluation.statistics import interval
from tasks.registry.register import registered_name
from tasks.registry.server import if_there, server_errors
from tasks.registry.tracking import configure_tracking
from tasks.registry.trained_on import current_md5, data_of, learned_units
from tasks.review import Review, find
from tasks.review.answers import WITHIN, Answers, NoAnswerError, answers
from tasks.review.changes import splits
from tasks.review.metrics import BASE, CHAMPION, SPEED, Difference, Metric, metrics_of
from tasks.stages.hashes import PREFIX, md5_of
from tasks.stages.params import load_application
from tasks.training.setup import split_file

ERRORS = 12  # of the challenger that people are shown

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """A row, and what was answered to it."""

    id: str
    text: str
    expected: str
    challenger: str
    champion: str | None
    gain: float
    """What the challenger's score has more than the champion's; below zero where it lost."""


@dataclass(frozen=True)
class Slice:
    """The mean score of a part of the rows."""

    by: str
    name: str
    rows: int
    challenger: float
    champion: float | None
    difference: Difference | None


@dataclass(frozen=True)
class Comparison:
    """All that was found. Without a champion the challenger stands against the baseline alone."""

    model: str
    name: str
    """What the registry calls the model."""
    challenger: ModelVersion
    champion: ModelVersion | None
    main: str
    """The metric that counts most; empty where nobody said."""
    metrics: Mapping[str, Metric]
    unit: str = "rows"
    rows: int = 0
    """That were answered."""
    asked: str = ""
    """The dataset's folder and the hash of its test file."""
    failed: str = ""
    """Why the challenger answered nothing."""
    incomparable: str = ""
    """Why there is no difference to the champion."""
    learned: Mapping[str, int | None] = field(default_factory=dict)
    """How many test rows each version learned, which neither was asked; None where that is not known."""
    low_scores_are_good: bool = False
    lost: Sequence[Row] = ()
    """Rows that the champion had better, the worst loss first."""
    won: Sequence[Row] = ()
    errors: Sequence[Row] = ()
    """The challenger's, the worst first."""
    told: Mapping[str, str] = field(default_factory=dict)
    """The errors of each in a sentence."""
    baseline: str = ""
    explained: Mapping[str, str] = field(default_factory=dict)
    """What the baseline and the metrics are."""
    unanswered: int = 0
    """Rows that the challenger gave no answer to."""
    slices: Sequence[Slice] = ()
    logged: Mapping[str, float] = field(default_factory=dict)
    """What the challenger's own evaluation logged."""

    @property
    def against(self) -> str:
        """Whom the challenger has to stand against."""
        return CHAMPION if self.champion else BASE

    @property
    def left_out(self) -> str:
        """Which test rows were left out, in sentences; empty where none were."""
        return " ".join(
            f"{count} test {self.unit} left out: the {who} learned {'it' if count == 1 else 'them'}."
            for who, count in self.learned.items()
            if count
        )


def _version(name: str, number: str) -> ModelVersion:
    if (found := if_there(lambda: MlflowClient().get_model_version(name, number))) is None:
        raise UserError(f"{name} has no version {number}, or no longer: look at its versions in MLflow")
    return found


def _logged(version: ModelVersion) -> dict[str, float]:
    """What the version's own evaluation found."""
    return dict(MlflowClient().get_run(version.run_id).data.metrics) if version.run_id else {}


def _same_test(mine: ModelVersion, its: ModelVersion, dataset: str) -> bool:
    """Whether both were evaluated on the same test rows, as far as is known: by that file, or the dataset's folder."""
    files = [splits(each).get("test") for each in (mine, its)]
    folders = [each.tags.get(f"{PREFIX}.dvc.dep.data/processed/{dataset}") for each in (mine, its)]
    return any(None not in pair and pair[0] == pair[1] for pair in (files, folders))


def _learned(
    found: Comparison, data: Path, rows: pd.DataFrame, versions: Mapping[str, ModelVersion], *, same_test: bool
) -> dict[str, pd.Series | None]:
    """Which of the rows each version learned; None where that is not known.

    A version that was trained on this folder, and a champion that was evaluated on the same test rows, learned none.
    For others the hashes of what they learned are looked up. Rows that are not of the test split count as not learned.
    Raises UserError where a version learned all of the test split.
    """
    path, learned = split_file(data, "test"), dict[str, pd.Series | None]()
    test = pd.read_parquet(path) if path.suffix == ".parquet" else pd.DataFrame()
    for who, version in versions.items():
        trained = data_of(found.model, version)
        if trained and trained.md5 == current_md5(data.name):
            units = np.zeros(0, np.int64)
        else:
            units = learned_units(trained) if trained and "unit" in test else None
        if units is None:
            learned[who] = pd.Series(False, rows.index) if who == CHAMPION and same_test else None
        elif len(units) and test["unit"].isin(units).all():
            raise UserError(f"{data}: the {who} learned all of the test split, so nothing is left to compare by")
        else:
            learned[who] = rows["id"].isin(test["id"][test["unit"].isin(units)] if len(units) else ())
    return learned


def _rows(
    rows: pd.DataFrame, order: pd.Index, gain: pd.Series, mine: pd.DataFrame, its: pd.DataFrame | None
) -> list[Row]:
    chosen, said = rows.loc[order], None if its is None else its["said"]
    return [
        Row(
            str(each.id), each.text, each.expected, mine.loc[each.Index, "said"],
            None if said is None else said[each.Index], float(gain.get(each.Index, 0.0)),
        )
        for each in chosen[["id", "text", "expected"]].itertuples()
    ]  # fmt: skip


def _slices(rows: pd.DataFrame, columns: Sequence[str], mine: pd.Series, its: pd.Series | None) -> list[Slice]:
    found = []
    for by in columns:
        for name, part in rows.groupby(by, sort=True).groups.items():
            difference = None
            if its is not None:
                lead = (mine[part] - its[part]).to_numpy()
                difference = Difference(float(lead.mean()), *interval(np.mean, lead))
            other = None if its is None else float(its[part].mean())
            found.append(Slice(by, str(name), len(part), float(mine[part].mean()), other, difference))
    return found


def _worst(rows: pd.DataFrame, mine: pd.DataFrame, review: Review) -> pd.Index:
    """The rows that are not wholly right, the worst first, by turns from the slices of the first kind."""
    if review.low_scores_are_good:
        return mine.sort_values("surety", ascending=False, kind="stable").index
    wrong = mine[mine["score"] < 1].sort_values(["score", "surety"], ascending=[True, False], kind="stable")
    if not review.slices:
        return wrong.index
    turn = wrong.groupby(rows.loc[wrong.index, review.slices[0]], dropna=False).cumcount()
    return turn.sort_values(kind="stable").index


def _ask(review: Review, version: ModelVersion, rows: pd.DataFrame, evaluate: Any, within: float) -> Answers:
    logger.info("%s version %s answers %d %s", version.name, version.version, len(rows), review.unit)
    asked, options = rows[list(review.columns)], review.options(evaluate)
    return answers(version.name, version.version, asked, ask=review.ask, options=options, within=within)


def _asked(
    review: Review,
    data: Path,
    found: Comparison,
    evaluate: Any,
    its_logged: Mapping[str, float],
    within: float,
    *,
    same_test: bool,
) -> Comparison:
    """The comparison with what both versions answer to the rows of `data` that neither learned."""
    rows = review.rows(data)
    if rows.empty:
        raise UserError(f"{data}: its test split has no rows; run `dvc repro preprocess@{data.name}`")
    versions = {"challenger": found.challenger} | ({CHAMPION: found.champion} if found.champion else {})
    learned = _learned(found, data, rows, versions, same_test=same_test)
    counts = {who: None if each is None else int(each.sum()) for who, each in learned.items()}
    found = replace(found, unit=review.unit, learned=counts)
    if any(counts.values()):
        rows = rows[~np.any([each for each in learned.values() if each is not None], axis=0)].reset_index(drop=True)
    logged, its, incomparable = found.logged, None, ""
    try:
        mine = _ask(review, found.challenger, rows, evaluate, within)
    except NoAnswerError as error:
        reason = str(error)
        metrics, incomparable = metrics_of({}, {}, logged, its_logged), reason if found.champion else ""
        return replace(found, main=review.main, metrics=metrics, failed=reason, incomparable=incomparable)
    if found.champion:
        try:
            its = _ask(review, found.champion, rows, evaluate, within)
        except NoAnswerError as error:
            incomparable = str(error)
    if its is not None and (lacking := {*mine.table.columns} - {*its.table.columns}):
        its, incomparable = None, f"the champion's answers have no {', '.join(sorted(lacking))}"
    measured, scores = (
        [None if each is None else function(rows, each.table) for each in (mine, its)]
        for function in (review.measure, review.score)
    )
    speeds = [{} if each is None else {SPEED: each.speed} for each in (mine, its)]
    tables = {"challenger": mine} | ({} if its is None else {CHAMPION: its})
    told = {who: review.tell(rows, each.table) for who, each in tables.items()} if review.tell else {}
    points = scores[0]["score"], None if its is None else scores[1]["score"]
    gain = pd.Series(0.0, rows.index) if its is None else points[0] - points[1]
    gain = -gain if review.low_scores_are_good else gain
    changed = {sign: gain[sign * gain >= review.step] * sign for sign in (-1, 1)}
    lost, won, wrong = (
        _rows(rows, order, gain, *scores)
        for order in (
            *(each.sort_values(ascending=False, kind="stable").index for each in changed.values()),
            _worst(rows, scores[0], review)[:ERRORS],
        )
    )
    return replace(
        found,
        main=review.main if review.main in measured[0] else next(iter(measured[0]), review.main),
        metrics=metrics_of(
            measured[0] | speeds[0],
            (measured[1] or {}) | speeds[1],
            logged,
            its_logged,
            as_evaluated=review.ask == "predict" and not any(counts.values()),
        ),
        rows=len(rows),
        asked=f"{data.as_posix()} ({md5_of(split_file(data, 'test'))})",
        incomparable=incomparable,
        low_scores_are_good=review.low_scores_are_good,
        lost=lost,
        won=won,
        errors=wrong,
        told=told,
        baseline=review.baseline,
        explained=review.explained,
        unanswered=int(mine.table["error"].notna().sum()) if "error" in mine.table else 0,
        slices=_slices(rows, review.slices, *points),
    )


def compare(model: str, challenger: str, champion: str | None = None, *, within: float = WITHIN) -> Comparison:
    """Ask both versions the test rows that lie here, and say how they differ; without a champion, the challenger alone.

    Rows that one of them learned are left out and counted.
    `within` is what each has, in seconds. A version that gives no answers is a finding, not an error. Raises UserError
    for a version that is not in the registry, and for test rows that are missing.
    """
    configure_tracking()
    name, block = registered_name(model), load_application(model)
    with server_errors():
        mine, its = _version(name, challenger), _version(name, champion) if champion else None
        logged = _logged(mine)
        same_test = its is not None and _same_test(mine, its, block.dataset)
        its_logged = _logged(its) if same_test else {}
    found = Comparison(model, name, mine, its, "", {}, logged=logged)
    try:
        review = find(model)
    except ModuleNotFoundError as error:
        if error.name != f"tasks.review.{model}":
            raise
        reason = f"no rows are asked, as there is no tasks/review/{model}.py" if its else ""
        return replace(found, metrics=metrics_of({}, {}, logged, its_logged), incomparable=reason)
    data = Path("data/processed", block.dataset)
    return _asked(review, data, found, block.evaluate, its_logged, within, same_test=same_test)
