"""Challenger against champion and baseline: their answers to the same rows, and the differences as numbers.

The answers come from each version's evaluation. The champion answers again if it was evaluated on other rows. The
challenger answers a few rows again, with the code that it ships.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from llm.errors import UserError
from tasks.measures.description import Evidence, Review
from tasks.measures.intervals import interval
from tasks.params.load import load_application
from tasks.params.slices import find_review
from tasks.registry.main_figures import main_figures
from tasks.registry.server import if_there, server_errors
from tasks.registry.tracking import configure_tracking
from tasks.registry.trained_on import current_md5, data_of, learned_units
from tasks.registry.versions import registered_name
from tasks.review.answers import WITHIN, NoAnswerError, answers
from tasks.review.changes import origin
from tasks.review.metrics import BASE, CHAMPION, Difference, Metric, metrics_of
from tasks.training.setup import split_file

ERRORS = 8  # of the challenger that the page shows
CHECKED = 16  # rows that a challenger answers again
EVIDENCE = "evaluation/evidence"  # among the artifacts of a version's run

Logged = Mapping[str, float]
Ask = Callable[[ModelVersion, pd.DataFrame], tuple[pd.DataFrame, float]]

logger = logging.getLogger(__name__)


class Row(NamedTuple):
    """A row with its answers."""

    id: str
    text: str
    expected: str
    challenger: str
    champion: str | None


@dataclass(frozen=True)
class Slice:
    """The mean score of a slice of the rows."""

    by: str
    name: str
    rows: int
    challenger: float
    champion: float | None = None
    difference: Difference | None = None
    baseline: float | None = None


@dataclass(frozen=True)
class Comparison:
    """The results of a review. Without a champion the challenger is compared with the baseline."""

    model: str
    challenger: ModelVersion
    champion: ModelVersion | None
    metrics: Mapping[str, Metric]
    main: str = ""
    """The metric that the verdict is about; empty if none is named."""
    explained: Mapping[str, str] = field(default_factory=dict)
    """The meanings of metrics."""
    baseline: str = ""
    """A description of the baseline."""
    unit: str = "rows"
    rows: int = 0
    """The number of rows that were compared."""
    checked: int = 0
    """The number of rows that the challenger answered again, with the code that it ships."""
    agreed: int | None = None
    """How many of them score as in its evaluation; None if that wrote no answers."""
    failed: str = ""
    """Why the challenger gave no answers."""
    incomparable: str = ""
    """Why there is no comparison with the champion."""
    learned: int | None = 0
    """The number of test rows that the champion trained on, which are left out; None if it is not known."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """The seconds for an answer, by version, if it answered again."""
    lost: Sequence[Row] = ()
    """Rows on which the champion is better, largest loss first."""
    won: Sequence[Row] = ()
    errors: Sequence[Row] = ()
    """The challenger's errors, worst first."""
    slices: Sequence[Slice] = ()

    @property
    def against(self) -> str:
        """`champion` or `baseline`: what the challenger is compared with."""
        return CHAMPION if self.champion else BASE

    @property
    def opponent(self) -> str:
        """The same as a phrase, with the version."""
        return f"champion {self.champion.version}" if self.champion else "the baseline"

    @property
    def answered(self) -> bool:
        """Whether both versions answered the same rows."""
        return bool(self.champion and self.rows and not self.incomparable)

    @property
    def left_out(self) -> str:
        """A sentence on the test rows that the champion trained on; empty if there are none."""
        if self.learned is None:
            return f"Which of the {self.unit} the champion learned is not known, so all are compared."
        return f"Test {self.unit} left out because the champion learned them: {self.learned}." if self.learned else ""


def compare(model: str, challenger: str, champion: str | None = None, *, within: float = WITHIN) -> Comparison:
    """Compare two versions on the test rows that are here; without a champion, the challenger with its baseline.

    A version has `within` seconds to answer; if it gives no answers, that is a finding, not an error. Raises UserError
    for a version that is not in the registry, for missing test rows, and for test rows of other data than the
    challenger's.
    """
    configure_tracking()
    name, block = registered_name(model), load_application(model)
    with server_errors():
        mine, its = version_of(name, challenger), version_of(name, champion) if champion else None
        test_rows = origin(mine).test_rows
        same_test = its is not None and test_rows is not None and test_rows == origin(its).test_rows
        logged, its_logged = _logged(mine), _logged(its) if same_test else {}
    found = Comparison(model, mine, its, metrics_of(logged, its_logged))
    form = find_review(model)
    if form is None:
        reason = f"no rows are asked, as there is no tasks/applications/{model}/review.py" if its else ""
        return replace(found, incomparable=reason)
    explained = {**main_figures(model), **form.explained}
    found = replace(found, main=form.main, unit=form.unit, baseline=form.baseline, explained=explained)

    def ask(version: ModelVersion, rows: pd.DataFrame) -> tuple[pd.DataFrame, float]:
        logger.info("%s version %s answers %d %s", name, version.version, len(rows), form.unit)
        asked, options = rows[list(form.columns)], form.options(block.evaluate)
        table, seconds = answers(name, version.version, asked, ask=form.ask, options=options, within=within)
        logger.info("%s version %s took %.3f s for each", name, version.version, seconds)
        return table, seconds

    return _with_answers(found, form, Path("data/processed", block.dataset), logged, its_logged, same_test, ask)


def _with_answers(
    found: Comparison, form: Review, data: Path, logged: Logged, its_logged: Logged, same_test: bool, ask: Ask
) -> Comparison:
    """The comparison, with both versions' answers to the test rows of `data` that the champion did not train on."""
    rows, champion, its = form.rows(data), found.champion, None
    if rows.empty:
        raise UserError(f"{data}: its test split has no rows; run `dvc repro preprocess@{data.name}`")
    _check_data(found.challenger, data.name)
    learned = _learned(champion, data) if champion and not same_test else []
    mine, baseline, found = _challengers(found, form, rows, ask)
    if mine is None:
        return found
    own, pair = form.measure(rows.loc[mine.index], mine), None
    if champion:
        rows = rows[~rows["id"].isin(learned or [])]
        found = replace(found, learned=None if learned is None else len(learned))
        its, found = _champions(found, form, rows, same_test, ask)
    index = rows.index.intersection(mine.index)
    if its is not None:
        index = index.intersection(its.index)
        its = its.loc[index]
        pair = form.measure(rows.loc[index], mine.loc[index]), form.measure(rows.loc[index], its)
    found = replace(found, metrics=metrics_of(logged, its_logged, own, pair))
    return _with_rows(found, form, rows.loc[index], mine.loc[index], its, {} if learned else baseline)


def _challengers(
    found: Comparison, form: Review, rows: pd.DataFrame, ask: Ask
) -> tuple[pd.DataFrame | None, Mapping[tuple[str, str], float], Comparison]:
    """The challenger's answers, or None if its evaluation left metrics alone; the baseline's slices; and the
    comparison, updated with its new answers."""
    mine, baseline = _read_evidence(form, found.challenger, rows) or (None, {})
    ask_all = mine is None and found.champion is not None
    asked = rows if ask_all else rows[:: max(1, len(rows) // CHECKED)][:CHECKED]
    try:
        now, seconds = ask(found.challenger, asked)
    except NoAnswerError as error:
        return None, {}, replace(found, failed=str(error), incomparable=str(error) if found.champion else "")
    agreed = None if mine is None else _agreed(form, asked, now, mine)
    found = replace(found, checked=len(asked), agreed=agreed, seconds={"challenger": seconds})
    return (now if ask_all else mine), baseline, found


def _champions(
    found: Comparison, form: Review, rows: pd.DataFrame, same_test: bool, ask: Ask
) -> tuple[pd.DataFrame | None, Comparison]:
    """The champion's answers, or None if it gives none; and the comparison, updated with the time or the reason."""
    if same_test and (evidence := _read_evidence(form, found.champion, rows)):
        return evidence[0], found
    try:
        its, seconds = ask(found.champion, rows)
    except NoAnswerError as error:
        return None, replace(found, incomparable=str(error))
    return its, replace(found, seconds={**found.seconds, CHAMPION: seconds})


def version_of(name: str, number: str) -> ModelVersion:
    """A version of a registered model. Raises UserError if there is none."""
    if (version := if_there(MlflowClient().get_model_version, name, number)) is None:
        raise UserError(f"{name} has no version {number}, or no longer: look at its versions in MLflow")
    return version


def _logged(version: ModelVersion) -> dict[str, float]:
    return dict(MlflowClient().get_run(version.run_id).data.metrics) if version.run_id else {}


def _check_data(version: ModelVersion, dataset: str) -> None:
    """Raise UserError unless the challenger was trained on the data that is here: the test rows must be its own."""
    trained, here = data_of(version), current_md5(dataset)
    if trained is None or trained.md5 != here:
        learned = trained.md5 if trained else "data that is not known"
        way_out = "check out its commit and run `dvc pull`, or `make run` for a version of the data here"
        raise UserError(
            f"data/processed/{dataset} is {here}, and version {version.version} learned from {learned}: {way_out}"
        )


def _learned(champion: ModelVersion, data: Path) -> list[str] | None:
    """The ids of test rows that the champion trained on; None if it is not known.

    The challenger trained on none: its data is the data here. Raises UserError if the champion trained on all of them.
    """
    trained = data_of(champion)
    if trained and trained.md5 == current_md5(data.name):
        return []
    path, units = split_file(data, "test"), learned_units(trained) if trained else None
    if units is None or path.suffix != ".parquet":
        return None
    test = pd.read_parquet(path, columns=["id", "unit"])
    if (learned := test["unit"].isin(units)).all():
        raise UserError(
            f"{data}: champion {champion.version} learned all test rows, so none are left to compare on. Restore the "
            f"seed and the shares of its split and `make run`, or move the alias {CHAMPION} in MLflow yourself"
        )
    return test["id"][learned].tolist()


def _read_evidence(form: Review, version: ModelVersion, rows: pd.DataFrame) -> Evidence | None:
    """The answers that the version's evaluation wrote, if it wrote any."""
    with server_errors(), TemporaryDirectory() as folder:
        if not form.evidence or not MlflowClient().list_artifacts(version.run_id, EVIDENCE):
            return None
        path = mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path=EVIDENCE, dst_path=folder)
        return form.evidence(rows, Path(path))


def _agreed(form: Review, rows: pd.DataFrame, now: pd.DataFrame, before: pd.DataFrame) -> int:
    """The number of rows that score as they did in the evaluation."""
    both = rows.index.intersection(before.index)
    scores = (form.score(rows.loc[both], each.loc[both])["score"] for each in (now, before))
    return int(np.equal(*scores).sum())


def _with_rows(
    found: Comparison, form: Review, rows: pd.DataFrame, mine: pd.DataFrame, its: pd.DataFrame | None,
    baseline: Mapping[tuple[str, str], float],
) -> Comparison:  # fmt: skip
    """The comparison, with slices, changed answers and errors."""
    scores, its_scores = form.score(rows, mine), None if its is None else form.score(rows, its)
    table = rows[["id", "text", "expected"]].assign(challenger=scores["answer"], champion=None)
    gain = pd.Series(0.0, rows.index)
    if its_scores is not None:
        table["champion"], gain = its_scores["answer"], scores["score"] - its_scores["score"]
    wrong = scores[scores["score"] < 1].sort_values(["score", "confidence"], ascending=[True, False], kind="stable")

    def shown(index: pd.Index) -> list[Row]:
        return [Row(*each) for each in table.loc[index].itertuples(index=False)]

    return replace(
        found,
        rows=len(rows),
        lost=shown(gain[gain <= -form.step].sort_values(kind="stable").index),
        won=shown(gain[gain >= form.step].sort_values(ascending=False, kind="stable").index),
        errors=shown(wrong.index[:ERRORS]),
        slices=[
            _slice(by, name, scores["score"][part], gain[part] if its is not None else None, baseline)
            for by in form.slices
            for name, part in rows.groupby(by, sort=True).groups.items()
        ],
    )


def _slice(
    by: str, name: str, scores: pd.Series, gain: pd.Series | None, baseline: Mapping[tuple[str, str], float]
) -> Slice:
    value, found = float(scores.mean()), Slice(by, str(name), len(scores), 0.0, baseline=baseline.get((by, str(name))))
    if gain is None:
        return replace(found, challenger=value)
    difference = Difference(float(gain.mean()), *interval(np.mean, gain.to_numpy()))
    return replace(found, challenger=value, champion=value - difference.value, difference=difference)
