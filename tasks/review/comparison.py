"""Challenger against champion and baseline: the answers of both to the same rows, and what differs, as numbers.

The answers are those that each version's evaluation wrote. The champion answers again where it was evaluated on other
rows; the challenger answers a few again, by the code that it ships.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from llm.errors import UserError
from tasks.applications import Evidence, Review
from tasks.applications import review as find_review
from tasks.evaluation.statistics import interval
from tasks.registry.figures import main_figures
from tasks.registry.server import if_there, server_errors
from tasks.registry.tracking import configure_tracking
from tasks.registry.trained_on import current_md5, data_of, learned_units
from tasks.registry.versions import registered_name
from tasks.review.answers import WITHIN, Answers, NoAnswerError, answers
from tasks.review.changes import evaluated_rows
from tasks.review.metrics import BASE, CHAMPION, Difference, Metric, metrics_of
from tasks.stages.params import load_application
from tasks.training.setup import split_file

ERRORS = 8  # of the challenger that people are shown
CHECKED = 16  # rows that a challenger answers again
EVIDENCE = "evaluation/evidence"  # among the artifacts of a version's run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """A row and the answers to it."""

    id: str
    text: str
    expected: str
    challenger: str
    champion: str | None


@dataclass(frozen=True)
class Slice:
    """The mean score of a part of the rows."""

    by: str
    name: str
    rows: int
    challenger: float
    champion: float | None = None
    difference: Difference | None = None
    baseline: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Everything that a review found. Without a champion the challenger is compared with the baseline."""

    model: str
    name: str
    """The registered model."""
    challenger: ModelVersion
    champion: ModelVersion | None
    metrics: Mapping[str, Metric]
    main: str = ""
    """The metric that the verdict is about; empty where nobody named one."""
    explained: Mapping[str, str] = field(default_factory=dict)
    baseline: str = ""
    """What the baseline is."""
    unit: str = "rows"
    rows: int = 0
    """Rows that were compared."""
    checked: int = 0
    """Rows that the challenger answered now, by the code that it ships."""
    agreed: int | None = None
    """Those that score as in its evaluation; None where that wrote no answers."""
    unanswered: int = 0
    """Rows that the challenger gave no answer to."""
    failed: str = ""
    """Why the challenger answered nothing."""
    incomparable: str = ""
    """Why there is no difference to the champion."""
    other_rows: bool = False
    """Whether the champion was evaluated on other rows, and answered these now."""
    learned: int | None = 0
    """Test rows that the champion learned, which are left out; None where that is not known."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """For an answer, by who answered now."""
    lost: Sequence[Row] = ()
    """Rows on which the champion is better, the worst loss first."""
    won: Sequence[Row] = ()
    errors: Sequence[Row] = ()
    """The challenger's, the worst first."""
    slices: Sequence[Slice] = ()

    @property
    def against(self) -> str:
        """Whom the challenger is compared with."""
        return CHAMPION if self.champion else BASE

    @property
    def opponent(self) -> str:
        """The same for people, with the version."""
        return f"champion {self.champion.version}" if self.champion else "the baseline"

    @property
    def left_out(self) -> str:
        """A sentence on the rows that the champion learned; empty where it learned none."""
        if self.learned is None:
            return f"Which of the {self.unit} the champion learned is not known, so all are compared."
        return f"Test {self.unit} left out because the champion learned them: {self.learned}." if self.learned else ""


def version_of(name: str, number: str) -> ModelVersion:
    """A version of a registered model. Raises UserError where there is none."""
    if (found := if_there(lambda: MlflowClient().get_model_version(name, number))) is None:
        raise UserError(f"{name} has no version {number}, or no longer: look at its versions in MLflow")
    return found


def _logged(version: ModelVersion) -> dict[str, float]:
    return dict(MlflowClient().get_run(version.run_id).data.metrics) if version.run_id else {}


def _check_data(model: str, version: ModelVersion, dataset: str) -> None:
    """That the challenger learned from the data that is here, so that the test rows here are its own."""
    trained, here = data_of(version), current_md5(dataset)
    if trained is None or trained.md5 != here:
        learned = trained.md5 if trained else "data that is not known"
        way_out = "check out its commit and run `dvc pull`, or `make run` for a version of the data here"
        raise UserError(
            f"data/processed/{dataset} is {here}, and version {version.version} learned from {learned}: {way_out}"
        )


def _learned(champion: ModelVersion, data: Path) -> list[str] | None:
    """The ids of test rows that the champion learned; None where that is not known.

    The challenger learned none: its data is the data here. Raises UserError where the champion learned all of them.
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


def _read_evidence(review: Review, version: ModelVersion, rows: pd.DataFrame) -> Evidence | None:
    """The answers that the version's evaluation wrote; None where it wrote none."""
    with server_errors(), TemporaryDirectory() as folder:
        if not review.evidence or not MlflowClient().list_artifacts(version.run_id, EVIDENCE):
            return None
        place = {"run_id": version.run_id, "artifact_path": EVIDENCE, "dst_path": folder}
        return review.evidence(rows, Path(mlflow.artifacts.download_artifacts(**place)))


def _ask(review: Review, version: ModelVersion, rows: pd.DataFrame, evaluate: Any, within: float) -> Answers:
    logger.info("%s version %s answers %d %s", version.name, version.version, len(rows), review.unit)
    asked, options = rows[list(review.columns)], review.options(evaluate)
    found = answers(version.name, version.version, asked, ask=review.ask, options=options, within=within)
    logger.info("%s version %s took %.3f s for each", version.name, version.version, found.seconds)
    return found


def _rows(rows: pd.DataFrame, order: pd.Index, mine: pd.DataFrame, its: pd.DataFrame | None) -> list[Row]:
    return [
        Row(
            *rows.loc[place, ["id", "text", "expected"]],
            mine["said"][place],
            None if its is None else its["said"][place],
        )
        for place in order
    ]


def _slices(
    rows: pd.DataFrame, columns: Sequence[str], baseline: Mapping[tuple[str, str], float],
    mine: pd.Series, its: pd.Series | None,
) -> list[Slice]:  # fmt: skip
    found = []
    for by in columns:
        for name, part in rows.groupby(by, sort=True).groups.items():
            value, its_value, difference = float(mine[part].mean()), None, None
            if its is not None:
                lead, its_value = (mine[part] - its[part]).to_numpy(), float(its[part].mean())
                difference = Difference(float(lead.mean()), *interval(np.mean, lead))
            found.append(Slice(by, str(name), len(part), value, its_value, difference, baseline.get((by, str(name)))))
    return found


def _compared(
    found: Comparison, review: Review, rows: pd.DataFrame, mine: pd.DataFrame, its: pd.DataFrame | None,
    baseline: Mapping[tuple[str, str], float],
) -> Comparison:  # fmt: skip
    """The comparison with rows, slices and paired differences."""
    scores, its_scores = (None if each is None else review.score(rows, each) for each in (mine, its))
    gain = pd.Series(0.0, rows.index) if its_scores is None else scores["score"] - its_scores["score"]
    lost, won = (
        (sign * gain[sign * gain >= review.step]).sort_values(ascending=False, kind="stable").index for sign in (-1, 1)
    )
    wrong = scores[scores["score"] < 1].sort_values(["score", "confidence"], ascending=[True, False], kind="stable")
    points = scores["score"], None if its_scores is None else its_scores["score"]
    return replace(
        found,
        rows=len(rows),
        unanswered=int(mine["error"].notna().sum()) if "error" in mine else 0,
        lost=_rows(rows, lost, scores, its_scores),
        won=_rows(rows, won, scores, its_scores),
        errors=_rows(rows, wrong.index[:ERRORS], scores, its_scores),
        slices=_slices(rows, review.slices, baseline, *points),
    )


def _champions(
    found: Comparison, review: Review, rows: pd.DataFrame, evaluate: Any, within: float, *, same_test: bool
) -> tuple[pd.DataFrame | None, Comparison]:
    """The champion's answers, None where it gives none, and the comparison with what is to be said of that."""
    try:
        if read := _read_evidence(review, found.champion, rows) if same_test else None:
            return read[0], found
        asked = _ask(review, found.champion, rows, evaluate, within)
    except NoAnswerError as error:
        return None, replace(found, incomparable=str(error))
    seconds = {**found.seconds, CHAMPION: asked.seconds}
    return asked.table, replace(found, seconds=seconds, other_rows=not same_test)


def _asked(
    found: Comparison, review: Review, data: Path, evaluate: Any, within: float, *, same_test: bool
) -> Comparison:
    """The comparison with what both versions answer to the test rows of `data` that the champion did not learn."""
    rows, challenger = review.rows(data), found.challenger
    if rows.empty:
        raise UserError(f"{data}: its test split has no rows; run `dvc repro preprocess@{data.name}`")
    _check_data(found.model, challenger, data.name)
    learned = _learned(found.champion, data) if found.champion and not same_test else []
    mine, baseline = _read_evidence(review, challenger, rows) or (None, {})
    all_of_them = mine is None and (review.evidence is not None or found.champion is not None)
    few = rows if all_of_them else rows[:: max(1, len(rows) // CHECKED)][:CHECKED]
    try:
        now = _ask(review, challenger, few, evaluate, within)
    except NoAnswerError as error:
        return replace(found, failed=str(error), incomparable=str(error) if found.champion else "")
    found = replace(found, checked=len(few), seconds={"challenger": now.seconds})
    if mine is not None:
        both = few.index.intersection(mine.index)
        pair = (review.score(few.loc[both], each.loc[both])["score"] for each in (now.table, mine))
        found = replace(found, agreed=int(np.equal(*pair).sum()))
    elif all_of_them:
        mine = now.table
    else:  # the evaluation's metrics are all that there is
        return found
    own, its = review.measure(rows.loc[mine.index], mine), None
    rows = rows[~rows["id"].isin(learned or [])]
    found = replace(found, learned=None if learned is None else len(learned))
    if found.champion:
        its, found = _champions(found, review, rows, evaluate, within, same_test=same_test)
        if its is not None and (lacking := {*mine.columns} - {*its.columns}):
            its, found = None, replace(found, incomparable=f"its answers have no {', '.join(sorted(lacking))}")
    answered = [each for each in (mine, its) if each is not None]
    rows = rows.loc[[place for place in rows.index if all(place in each.index for each in answered)]]
    mine, its = mine.loc[rows.index], None if its is None else its.loc[rows.index]
    found = _compared(found, review, rows, mine, its, {} if learned else baseline)
    samples = (None if each is None else review.measure(rows, each) for each in (mine, its))
    its_logged = _logged(found.champion) if same_test else None
    return replace(found, metrics=metrics_of(_logged(challenger), its_logged, *samples, own))


def compare(model: str, challenger: str, champion: str | None = None, *, within: float = WITHIN) -> Comparison:
    """Compare two versions on the test rows that are here; without a champion, the challenger with its baseline.

    A version may answer for `within` seconds. One that gives no answers is a finding, not an error. Raises UserError
    for a version that is not in the registry, for missing test rows, and where they are not the challenger's.
    """
    configure_tracking()
    name, block = registered_name(model), load_application(model)
    with server_errors():
        mine, its = version_of(name, challenger), version_of(name, champion) if champion else None
        same_test = its is not None and evaluated_rows(mine) is not None and evaluated_rows(mine) == evaluated_rows(its)
        metrics = metrics_of(_logged(mine), _logged(its) if same_test else {})
    found = Comparison(model, name, mine, its, metrics)
    try:
        review = find_review(model)
    except ModuleNotFoundError as error:
        if error.name not in (f"tasks.applications.{model}", f"tasks.applications.{model}.review"):
            raise
        reason = f"no rows are asked, as there is no tasks/applications/{model}/review.py" if its else ""
        return replace(found, incomparable=reason)
    found = replace(
        found,
        unit=review.unit,
        explained={**main_figures(model), **review.explained},
        baseline=review.baseline,
        main=review.main,
    )
    data = Path("data/processed", block.dataset)
    return _asked(found, review, data, block.evaluate, within, same_test=same_test)
