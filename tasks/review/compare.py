"""Compare a challenger with its champion and the usual baseline, on the same test rows.

The scores of both come from their evaluations, as score tables that are joined by row. If the champion was evaluated on
other rows, its weights are measured again, on the rows that are here.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from llm.device import choose_compute
from llm.errors import UserError
from llm.objectives import load
from tasks.data.drift import Profile
from tasks.data.splits import Split
from tasks.measures.description import Evaluation, Subject
from tasks.measures.intervals import Ends
from tasks.measures.metrics import Figure, figures
from tasks.measures.scores import ANSWER, BASELINE, OURS, ROW, answer_column, first_measures, join, read_scores
from tasks.params import find_evaluation, load_evaluation
from tasks.registry.main_figures import is_own, lower_is_better
from tasks.registry.register import MADE_FROM, PROFILE
from tasks.registry.store import if_there
from tasks.registry.versions import registered_name, run_id_of
from tasks.stages.hashes import as_hashes, parse_stages

EVIDENCE = "evaluation/evidence"
"""Among the artifacts of a version's run."""
SHOWN = [*ROW, "question", "expected"]
"""The columns of a score table that say what is asked."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Difference:
    """Challenger minus the other, with its 95 % interval if there is one."""

    value: float
    low: float | None = None
    high: float | None = None
    lower_is_better: bool = False

    @property
    def verdict(self) -> Literal["better", "worse", "the same", "no clear difference", "not known"]:
        """`the same` if both are equal in every resample, `no clear difference` if the interval includes zero."""
        if self.low is None or self.high is None:
            return "not known"
        if self.value == self.low == self.high == 0:
            return "the same"
        if self.low <= 0 <= self.high:
            return "no clear difference"
        return "better" if (self.high < 0) == self.lower_is_better else "worse"


@dataclass(frozen=True)
class Metric:
    """A metric of challenger, champion and baseline; None for what is not known."""

    name: str
    value: float
    """The challenger's, as its evaluation logged it."""
    low: float | None = None
    high: float | None = None
    """The ends of its 95 % interval."""
    baseline: float | None = None
    to_baseline: Difference | None = None
    champion: float | None = None
    to_champion: Difference | None = None

    def difference(self, *, beside_champion: bool) -> Difference | None:
        """The difference from the champion, or from the baseline."""
        return self.to_champion if beside_champion else self.to_baseline


@dataclass(frozen=True)
class Origin:
    """A version, and what its run says of where it comes from."""

    version: ModelVersion
    run: Run
    stages: Mapping[str, Mapping[str, Any]]
    """dvc.lock as it was."""
    profile: Mapping[str, Profile]
    """The labels and lengths of the train rows, by dataset."""

    @property
    def number(self) -> str:
        """Its number."""
        return f"{self.version.version}"

    @property
    def data(self) -> dict[str, str]:
        """DVC's hashes of data and models by path."""
        params = self.run.data.params
        return {name.removeprefix(MADE_FROM): md5 for name, md5 in params.items() if name.startswith(MADE_FROM)}

    @property
    def split(self) -> dict[str, Any]:
        """The parameters that decide to which split a row belongs, of all its datasets."""
        names = ("seed", "test", "validation")
        values: dict[str, Any] = {}
        for path in self.data:
            folder, _, dataset = path.rpartition("/")
            entry = self.stages.get(f"preprocess@{dataset}")
            if folder == "data/processed" and entry is not None:
                params = as_hashes(entry).params.get(f"datasets.{dataset}.preprocess") or {}
                values |= {f"{dataset}.{name}": params.get(name, Split.model_fields[name].default) for name in names}
        return values


@dataclass(frozen=True)
class Comparison:
    """The results of a review. Without a champion the challenger is compared with the baseline."""

    model: str
    evaluation: Evaluation
    challenger: Origin
    champion: Origin | None
    metrics: Mapping[str, Metric]
    table: pd.DataFrame
    """The challenger's score table."""
    joined: pd.DataFrame | None = None
    """The rows that both versions answered, with the champion as the baseline."""
    incomparable: str = ""
    """Why there is no comparison with the champion."""
    notes: list[str] = field(default_factory=list)
    """What a reader should know of how it was made."""

    @property
    def opponent(self) -> str:
        """`champion 3` or `the baseline`."""
        return f"champion {self.champion.number}" if self.champion else "the baseline"


def compare(model: str, challenger: str, champion: str | None = None) -> Comparison:
    """Compare two versions on the same test rows; without a champion, the challenger with its baseline.

    Raises UserError for a version that is not in the registry or was not evaluated.
    """
    evaluation = find_evaluation(model)
    own = read_origin(model, challenger)
    table = read_table(own)
    if table is None:
        raise UserError(f"{own.version.name} version {own.number} has no score table: evaluate and register it again")
    logged = own.run.data.metrics
    if champion is None:
        metrics = metrics_of(logged, figures(evaluation.metrics(table), table))
        return Comparison(
            model=model, evaluation=evaluation, challenger=own, champion=None, metrics=metrics, table=table
        )
    opponent = read_origin(model, champion)
    champions = read_table(opponent)
    incomparable = ""
    notes = []
    if champions is None or not is_same_test(table, champions):
        notes.append(f"Champion {opponent.number} was evaluated on other rows, and was measured again on these.")
        if own.split != opponent.split:
            incomparable = "its data was split in another way, so it may have learned these test rows"
        else:
            champions, incomparable = _measured_again(model, evaluation, opponent)
    joined = None
    if champions is not None and not incomparable:
        joined = join(table, champions)
        if joined.empty:
            incomparable = "the two have no test row in common"
            joined = None
    paired = figures(evaluation.metrics(joined), joined) if joined is not None else {}
    return Comparison(
        model=model,
        evaluation=evaluation,
        challenger=own,
        champion=opponent,
        metrics=metrics_of(logged, figures(evaluation.metrics(table), table), paired),
        table=table,
        joined=joined,
        incomparable=incomparable,
        notes=[] if incomparable else notes,
    )


def read_origin(model: str, number: str) -> Origin:
    """Read a version and its run. Raises UserError if the registry has no such version, or if it has no run."""
    name = registered_name(model)
    version = if_there(MlflowClient().get_model_version, name, number)
    if version is None:
        raise UserError(f"{name} has no version {number}, or no longer: look at its versions in MLflow")
    run_id = run_id_of(version)
    with TemporaryDirectory() as folder:
        lock = _download(run_id, "dvc.lock", folder)
        profile = _download(run_id, PROFILE, folder)
        return Origin(
            version=version,
            run=MlflowClient().get_run(run_id),
            stages=parse_stages(lock.read_text(), str(lock)) if lock else {},
            profile=json.loads(profile.read_text()) if profile else {},
        )


def _download(run_id: str, artifact: str, folder: str) -> Path | None:
    """An artifact of a run; None if it has none of this name."""
    try:
        return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=artifact, dst_path=folder))
    except (MlflowException, FileNotFoundError):
        return None


def read_evidence(origin: Origin, folder: str) -> Path | None:
    """The evidence of a version's evaluation, downloaded into a folder; None if it has none."""
    return _download(run_id_of(origin.version), EVIDENCE, folder)


def read_table(origin: Origin) -> pd.DataFrame | None:
    """The score table of a version's evaluation; None if it wrote none."""
    with TemporaryDirectory() as folder:
        evidence = read_evidence(origin, folder)
        return read_scores(evidence) if evidence else None


def is_same_test(table: pd.DataFrame, champions: pd.DataFrame) -> bool:
    """Whether two score tables are about the same questions, with the same expected answers."""
    return _questions(table).equals(_questions(champions))


def _questions(table: pd.DataFrame) -> pd.DataFrame:
    """What is asked, a line for each test row, in the order of their names."""
    return table[SHOWN].drop_duplicates().sort_values(ROW, ignore_index=True)


def _measured_again(model: str, evaluation: Evaluation, champion: Origin) -> tuple[pd.DataFrame | None, str]:
    """The scores of a champion's weights on the test rows that are here; or why there are none."""
    logger.info("%s version %s answers the test rows that are here", champion.version.name, champion.number)
    block = load_evaluation(model)
    base = Path("models", block.base) if hasattr(block, "base") else None
    compute = choose_compute()
    with TemporaryDirectory() as folder:
        try:
            uri = f"models:/{champion.version.name}/{champion.number}"
            files = Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder))
            subject = Subject(
                loaded=load(files / "artifacts" / model, compute.device),
                data=Path("data/processed", block.dataset),
                base=base,
                params=block.evaluate,
                compute=compute,
                evidence=Path(folder),
            )
            return evaluation.measure(subject).scores, ""
        except (UserError, MlflowException, OSError, RuntimeError, ValueError) as error:  # of another time's code
            return None, f"its weights can't be measured here: {' '.join(str(error).split())[:300]}"


def metrics_of(
    logged: Mapping[str, float], own: Mapping[str, Figure], paired: Mapping[str, Figure] | None = None
) -> dict[str, Metric]:
    """The metrics that the challenger's evaluation logged, next to the baseline's and the champion's.

    `own` holds figures of its score table; `paired` those of the rows of both, with the champion as their baseline.
    """
    metrics = {}
    for name, value in logged.items():
        if not is_own(name, logged):
            continue
        figure = own.get(name)
        together = (paired or {}).get(name)
        low, high = _unless_alike(figure.ends) if figure else (None, None)
        baseline = figure.baseline if figure else logged.get(f"{BASELINE}_{name}")
        metrics[name] = Metric(
            name=name,
            value=value,
            low=low,
            high=high,
            baseline=baseline,
            to_baseline=_difference(name, figure, value=value, baseline=baseline),
            champion=together.baseline if together else None,
            to_champion=_difference(name, together, value=value, baseline=None),
        )
    return metrics


def _difference(name: str, figure: Figure | None, *, value: float, baseline: float | None) -> Difference | None:
    """The lead of a figure over its baseline, with an interval if the score table gives one."""
    is_turned = lower_is_better(name)
    if figure is not None and figure.difference is not None:
        low, high = figure.difference_ends
        if low is not None and high is not None and np.isnan([low, high]).any():  # a resample had no value
            low, high = None, None
        return Difference(figure.difference, low, high, lower_is_better=is_turned)
    return None if baseline is None else Difference(value - baseline, lower_is_better=is_turned)


def _unless_alike(ends: Ends) -> Ends:
    """The ends; none of rows that are all alike: no resample knows what others would be."""
    low, high = ends
    return (None, None) if low is None or high is None or low == high or np.isnan([low, high]).any() else ends


def changed_rows(comparison: Comparison) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows that the challenger lost to its champion, largest loss first, and those that it won."""
    if comparison.joined is None:
        return pd.DataFrame(), pd.DataFrame()
    rows = judged(comparison.evaluation, comparison.joined)
    gain = rows["score"] - rows["other"]
    step = comparison.evaluation.step
    lost = gain[gain <= -step].sort_values(kind="stable")
    won = gain[gain >= step].sort_values(ascending=False, kind="stable")
    return rows.loc[lost.index], rows.loc[won.index]


def worst_rows(comparison: Comparison) -> pd.DataFrame:
    """The rows that the challenger has wrong, worst first."""
    rows = judged(comparison.evaluation, comparison.table)
    return rows[rows["score"] < 1].sort_values("score", kind="stable")


def judged(evaluation: Evaluation, table: pd.DataFrame) -> pd.DataFrame:
    """A line for each test row of a table: `score` and `other`, of which more is better, and the answers."""
    rows = first_measures(table, evaluation.judged_by)
    sign = np.where(rows["measure"].map(lower_is_better), -1.0, 1.0)
    opponents = rows[BASELINE] if BASELINE in rows else pd.Series(np.nan, rows.index)
    answers = rows.get(answer_column(BASELINE))
    return rows.assign(
        score=rows[OURS].astype(float) * sign,
        other=opponents.astype(float) * sign,
        answer=rows[ANSWER],
        other_answer=None if answers is None else answers,
    )
