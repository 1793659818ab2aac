"""Compare a challenger with its champion and the baseline, on the same test rows.

The scores come from each version's evaluation, as its score table. A version answers again if it has none, and a
champion if it was evaluated on other rows. The challenger answers a few rows again, with the code that it ships.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from llm.errors import UserError
from tasks.measures.description import Asking, Evaluation
from tasks.measures.metrics import Figure, figures
from tasks.measures.scores import BASELINE, OURS, TEST, first_measures, join, read_scores, score_table
from tasks.params import find_evaluation, load_evaluation
from tasks.registry.main_figures import main_figures
from tasks.registry.server import server_errors
from tasks.registry.store import configure_tracking
from tasks.registry.trained_on import current_md5, data_of, learned_units
from tasks.registry.versions import registered_name
from tasks.review.answers import WITHIN, NoAnswerError, answers
from tasks.review.changes import origin
from tasks.review.comparison import EVIDENCE, Comparison, version_of
from tasks.review.metrics import CHAMPION, metrics_of
from tasks.review.rows import judged_rows, with_rows
from tasks.training.setup import split_file

CHECKED = 16  # rows that a challenger answers again

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asker:
    """Asks versions of a model, and scores their answers."""

    name: str
    """The registered model."""
    asking: Asking
    unit: str
    evaluate: Any
    """The section of params.yaml."""
    within: float
    """Seconds for all answers of a version."""

    def scores(self, version: ModelVersion, rows: pd.DataFrame) -> tuple[pd.DataFrame, float]:
        """The score table of a version's answers to rows, and the seconds for each. Raises NoAnswerError."""
        label = f"{self.name} version {version.version}"
        logger.info("%s answers %s", label, f"{len(rows)} {self.unit}")
        table, seconds = answers(
            self.name,
            version.version,
            rows[list(self.asking.columns)],
            ask=self.asking.ask,
            options=self.asking.options(self.evaluate),
            within=self.within,
        )
        logger.info("%s took %.3f s for each", label, seconds)
        texts = rows.drop(columns=[*self.asking.columns, *self.asking.for_scoring])
        return score_table(texts, ours=self.asking.score(rows, table)), seconds


@dataclass(frozen=True)
class Tables:
    """The score tables of a comparison."""

    own: pd.DataFrame
    """The challenger's."""
    joined: pd.DataFrame | None = None
    """Its rows that the champion has, too, with the champion as the baseline."""


def compare(model: str, challenger: str, champion: str | None = None, *, within: float = WITHIN) -> Comparison:
    """Compare two versions on the test rows that are here; without a champion, the challenger with its baseline.

    A version has `within` seconds to answer; if it gives no answers, that is a finding, not an error. Raises UserError
    for a version that is not in the registry, for missing test rows, and for test rows of other data than the
    challenger's.
    """
    configure_tracking()
    name = registered_name(model)
    block = load_evaluation(model)
    evaluation = find_evaluation(model)
    with server_errors():
        mine = version_of(name, challenger)
        opponent = version_of(name, champion) if champion else None
        test_rows = origin(mine).test_rows
        same_test = opponent is not None and test_rows is not None and test_rows == origin(opponent).test_rows
        logged = _logged(mine)
        champion_logged = _logged(opponent) if opponent is not None and same_test else {}
    comparison = Comparison(
        model=model,
        challenger=mine,
        champion=opponent,
        metrics=metrics_of(logged, champion_logged),
        main=evaluation.main,
        explained={**main_figures(model), **evaluation.explained},
        baseline=evaluation.baseline,
        unit=evaluation.unit,
    )
    if evaluation.asking is None:
        comparison, tables = _evaluated(comparison, same_test=same_test)
    else:
        asker = Asker(name=name, asking=evaluation.asking, unit=evaluation.unit, evaluate=block.evaluate, within=within)
        comparison, tables = _asked(
            comparison, evaluation, asker=asker, data=Path("data/processed", block.dataset), same_test=same_test
        )
    if tables is None:
        return comparison
    own = figures(evaluation.metrics(tables.own), tables.own)
    paired: dict[str, Figure] = {}
    if tables.joined is not None:
        paired = figures(evaluation.metrics(tables.joined), tables.joined)
    comparison = replace(comparison, metrics=metrics_of(logged, champion_logged, own=own, paired=paired))
    return with_rows(comparison, evaluation, judged_rows(evaluation, tables.own, tables.joined))


def _evaluated(comparison: Comparison, *, same_test: bool) -> tuple[Comparison, Tables | None]:
    """The tables of an application whose versions no review asks."""
    own = read_table(comparison.challenger)
    if comparison.champion is None:
        return comparison, None if own is None else Tables(own)
    champions = read_table(comparison.champion) if same_test else None
    if own is None or champions is None:
        file = f"tasks/applications/{comparison.model}/measure.py"
        return replace(comparison, incomparable=f"no rows are asked, as {file} names none"), None
    return comparison, Tables(own, join(own, champions))


def _asked(
    comparison: Comparison, evaluation: Evaluation, *, asker: Asker, data: Path, same_test: bool
) -> tuple[Comparison, Tables | None]:
    """The tables of challenger and champion on the test rows of `data` that the champion did not train on."""
    rows = asker.asking.rows(data)
    if rows.empty:
        raise UserError(f"{data}: its test split has no rows; run `dvc repro preprocess@{data.name}`")
    _check_data(comparison.challenger, data.name)
    champion = comparison.champion
    learned = _learned(champion, data) if champion and not same_test else []
    comparison, own = _challengers(comparison, evaluation, asker=asker, rows=rows)
    if own is None or champion is None:
        return comparison, None if own is None else Tables(own)
    rows = _without(rows, learned)
    comparison = replace(comparison, learned=None if learned is None else len(learned))
    champions = read_table(champion) if same_test else None
    try:
        if champions is None:
            champions, seconds = asker.scores(champion, rows)
            comparison = replace(comparison, seconds={**comparison.seconds, CHAMPION: seconds})
        joined = join(own, champions)
        if joined.empty:  # asked and evaluated on other pieces of the test split
            asked, _ = asker.scores(comparison.challenger, rows)
            return comparison, Tables(asked, join(asked, champions))
    except NoAnswerError as error:
        return replace(comparison, incomparable=str(error)), Tables(_without(own, learned))
    return comparison, Tables(own, _without(joined, learned))


def _challengers(
    comparison: Comparison, evaluation: Evaluation, *, asker: Asker, rows: pd.DataFrame
) -> tuple[Comparison, pd.DataFrame | None]:
    """The challenger's table, or None if its evaluation left metrics alone; and the comparison, updated with how it
    answers now."""
    own = read_table(comparison.challenger)
    ask_all = own is None and comparison.champion is not None
    asked = rows if ask_all else rows[:: max(1, len(rows) // CHECKED)][:CHECKED]
    try:
        now, seconds = asker.scores(comparison.challenger, asked)
    except NoAnswerError as error:
        incomparable = str(error) if comparison.champion else ""
        return replace(comparison, failed=str(error), incomparable=incomparable), None
    agreed = None if own is None else _agreed(evaluation, now, own)
    comparison = replace(comparison, checked=len(asked), agreed=agreed, seconds={"challenger": seconds})
    return comparison, now if ask_all else own


def _agreed(evaluation: Evaluation, now: pd.DataFrame, before: pd.DataFrame) -> int | None:
    """The number of rows that score as they did in the evaluation; None if it scored other rows."""
    joined = join(now, before)
    judged = first_measures(joined, evaluation.judged_by)
    return None if judged.empty else (judged[OURS] == judged[BASELINE]).tolist().count(True)


def _without(rows: pd.DataFrame, learned: list[str] | None) -> pd.DataFrame:
    """The rows that are not among those of the test split that a champion learned."""
    return rows[~((rows["part"] == TEST) & rows["id"].isin(learned or []))]


def read_table(version: ModelVersion) -> pd.DataFrame | None:
    """The score table that a version's evaluation wrote; None if it wrote none."""
    with server_errors(), TemporaryDirectory() as folder:
        if not version.run_id or not MlflowClient().list_artifacts(version.run_id, EVIDENCE):
            return None
        path = mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path=EVIDENCE, dst_path=folder)
        return read_scores(Path(path))


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
