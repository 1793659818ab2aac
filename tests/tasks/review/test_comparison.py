"""Versions are compared by their score tables; where they are asked, they answer in this process."""

import sys
from pathlib import Path
from unittest.mock import patch

import mlflow
import pandas as pd
import pytest
import sklearn.metrics
import yaml
from dvc.repo import Repo
from mlflow import MlflowClient

import tasks.applications
from llm.config import TrainConfig
from llm.errors import UserError
from tasks.applications.foundation.pieces import piece_rows
from tasks.measures.labels.rows import label_rows
from tasks.measures.labels.scores import score_labels
from tasks.measures.scores import score_table, write_scores
from tasks.registry.record import Record, write_record
from tasks.review.compare import compare
from tasks.review.metrics import Difference
from tasks.stages.hashes import Hashes, md5_of
from tests.tasks.review.conftest import labelled, register, set_deps

pytestmark = pytest.mark.slow

FLIP = {"ham": "spam", "spam": "ham"}
QUIZ = {
    "train": "from tasks.training.description import Training\n"
    "class Params(TrainConfig): ...\n"
    "TRAINING = Training(objective='assistant', train=Params, prepare=print)\n",
    "measure": "from tasks.measures.description import Evaluation\n"
    "class Params(Config): ...\n"
    "EVALUATION = Evaluation(params=Params, measure=print, metrics=print)\n",
}


@pytest.fixture
def mails() -> pd.DataFrame:
    """The rows that both versions of the classifier are asked: 40 of the test split, and 6 everyday ones."""
    return label_rows(Path("data/processed/emails"))


def drawn(rows: pd.DataFrame) -> pd.Series:
    """Labels of which two in three are right."""
    return rows["expected"].where(pd.Series(range(len(rows))) % 3 > 0, rows["expected"].map(FLIP))


def write_table(number: str, table: pd.DataFrame, folder: Path) -> None:
    """Log a score table with a version, as its evaluation does."""
    run = MlflowClient().get_model_version("threestage-classifier", number).run_id
    write_scores(table, folder)
    MlflowClient().log_artifact(run, str(folder / "scores.parquet"), "evaluation/evidence")


def label_table(rows: pd.DataFrame, labels: pd.Series) -> pd.DataFrame:
    """The score table of a model that gives the mails these labels, each at 0.75, and of a baseline that says ham."""
    baseline = score_labels(rows, labelled(pd.Series("ham", rows.index)))
    return score_table(
        rows.drop(columns=["subject", "body"]), ours=score_labels(rows, labelled(labels)), baseline=baseline
    )


@pytest.fixture
def measure(tmp_path):
    """Gives a version of the classifier the score table of an evaluation in which it gave the mails these labels."""

    def write(number: str, rows: pd.DataFrame, labels: pd.Series) -> None:
        write_table(number, label_table(rows, labels), tmp_path)

    return write


def test_score_tables_of_the_same_rows_are_compared_and_few_rows_are_asked_again(copied, answering, mails, measure):
    labels = drawn(mails)
    right = labels == mails["expected"]
    measure("1", mails, labels)
    measure("2", mails, labels.map(FLIP))
    answering.tables["1"] = labelled(labels.where(mails.index > 0, labels.map(FLIP)))  # the first is another now
    comparison = compare("classifier", "1", "2")
    assert answering.asked == [("1", 16)]
    assert (comparison.rows, comparison.checked, comparison.agreed) == (46, 16, 15)
    assert (comparison.failed, comparison.incomparable, comparison.answered) == ("", "", True)
    assert comparison.seconds == {"challenger": 0.01}
    assert {row.id for row in comparison.won} == {*mails["id"][right]}
    assert {row.id for row in comparison.lost} == {*mails["id"][~right]}
    first = comparison.won[0]
    assert first.challenger.split()[0] == first.expected != first.champion.split()[0]
    assert len(comparison.errors) == 8
    actual = mails["expected"][:40] == "spam"
    called = labels[:40] == "spam"
    metric = comparison.metrics["f1"]
    assert metric.paired == pytest.approx(sklearn.metrics.f1_score(actual, called))
    assert metric.champion == pytest.approx(sklearn.metrics.f1_score(actual, ~called))
    assert metric.to_champion.low <= metric.to_champion.value <= metric.to_champion.high
    assert (metric.value, metric.to_baseline.value) == (0.5, pytest.approx(0.1))  # as logged


def test_slices_have_the_means_of_challenger_champion_and_baseline(copied, answering, mails, measure):
    labels = drawn(mails)
    measure("1", mails, labels)
    measure("2", mails, labels.map(FLIP))
    answering.tables["1"] = labelled(labels)
    slices = {(part.by, part.name): part for part in compare("classifier", "1", "2").slices}
    baselines = [slices[key].baseline for key in (("label", "ham"), ("label", "spam"))]
    assert baselines == [1.0, 0.0]
    everyday = slices["behavioural", "everyday: thanks"]
    right = labels == mails["expected"]
    assert (everyday.rows, everyday.challenger) == (3, pytest.approx(right[40:43].mean()))
    assert everyday.difference.value == pytest.approx(everyday.challenger - everyday.champion)


def test_challenger_without_a_champion_stands_against_the_baseline(copied, answering, mails, measure):
    measure("1", mails, drawn(mails))
    answering.tables["1"] = labelled(drawn(mails))
    comparison = compare("classifier", "1")
    assert (comparison.against, comparison.champion, comparison.rows, comparison.agreed) == ("baseline", None, 46, 16)
    assert (comparison.lost, comparison.won, comparison.answered) == ((), (), False)
    assert comparison.metrics["f1"].to_champion is None
    assert comparison.metrics["f1"].to_baseline.verdict == "better"
    assert [part.difference for part in comparison.slices if part.by == "label"] == [None, None]


@pytest.mark.parametrize("reason", ["other rows", "no table"])
def test_champion_that_was_evaluated_on_other_rows_or_without_a_table_answers_again(
    copied, answering, mails, measure, reason
):
    measure("1", mails, mails["expected"])
    if reason == "other rows":
        measure("2", mails, mails["expected"])
        set_deps("classifier", "2", behavioural="other mails")
    answering.tables |= {"1": labelled(mails["expected"]), "2": labelled(drawn(mails))}
    comparison = compare("classifier", "1", "2")
    assert answering.asked == [("1", 16), ("2", 46)]
    assert comparison.seconds.keys() == {"challenger", "champion"}
    assert len(comparison.won) == 16


def test_challenger_without_a_table_answers_all_rows(copied, answering, mails, measure):
    measure("2", mails, drawn(mails))
    answering.tables["1"] = labelled(mails["expected"])
    comparison = compare("classifier", "1", "2")
    assert answering.asked == [("1", 46)]
    assert (comparison.checked, comparison.agreed, len(comparison.won)) == (46, None, 16)


@pytest.mark.parametrize(
    ("gives_none", "failed", "rows"), [("1", "models:/threestage-classifier/1 gives no answers", 0), ("2", "", 46)]
)
def test_version_that_gives_no_answers_is_a_finding(copied, answering, mails, gives_none, failed, rows):
    answering.tables = {"1": labelled(mails["expected"]), "2": labelled(mails["expected"])}
    del answering.tables[gives_none]
    comparison = compare("classifier", "1", "2")
    assert comparison.incomparable == f"models:/threestage-classifier/{gives_none} gives no answers"
    assert (comparison.failed, comparison.rows) == (failed, rows)
    assert comparison.metrics["f1"].value == 0.5  # by its own evaluation
    assert comparison.metrics["f1"].to_champion == Difference(0.0)  # of their evaluations, without an interval


def test_versions_and_test_rows_that_are_missing_and_data_that_is_another_are_errors(copied, answering):
    with pytest.raises(UserError, match=r"^threestage-classifier has no version 9, or no longer"):
        compare("classifier", "9")
    with pytest.raises(UserError, match=r"^threestage-classifier has no version 8, or no longer"):
        compare("classifier", "1", "8")
    set_deps("classifier", "1", emails="d9.dir")
    with pytest.raises(UserError, match=r"and version 1 learned from d9\.dir: check out its commit and run `dvc pull`"):
        compare("classifier", "1")
    Path("data/processed/emails/test.parquet").unlink()
    with pytest.raises(OSError, match=r"^data/processed/emails: holds no test; run `dvc repro preprocess@emails`$"):
        compare("classifier", "1")


@pytest.fixture
def learned_some(copied) -> Path:
    """The data of a copied project whose champion, version 2, learned five mails of today's test split."""
    Repo.init(no_scm=True).close()
    data = Path("data/processed/emails")
    mails = pd.read_parquet(data / "test.parquet")
    units = {"2": ([35, 36, 37, 38], [39, 99], range(100, 140)), "1": ([200], [201], range(40))}
    for number, splits in units.items():
        for name, split in zip(("train", "validation"), splits, strict=False):
            pd.DataFrame({"unit": split}).to_parquet(data / f"{name}.parquet")
        mails.assign(unit=splits[-1]).to_parquet(data / "test.parquet")
        with Repo() as repo:
            repo.add(str(data))
        set_deps("classifier", number, emails=md5_of(data))
    return data


def test_test_rows_that_the_champion_learned_are_left_out_and_counted(learned_some, answering, mails, measure):
    measure("1", mails, mails["expected"])
    answering.tables = {"1": labelled(mails["expected"]), "2": labelled(mails["expected"].map(FLIP))}
    comparison = compare("classifier", "1", "2")
    assert (comparison.learned, comparison.rows) == (5, 41)
    assert not {row.id for row in comparison.won} & {f"mail-{n}" for n in range(35, 40)}
    assert comparison.left_out == "Test mails left out because the champion learned them: 5."
    assert comparison.metrics["f1"].to_baseline.value == pytest.approx(0.1)  # of all rows, as it was logged
    set_deps("classifier", "2", emails="gone.dir")
    comparison = compare("classifier", "1", "2")
    assert (comparison.learned, comparison.rows) == (None, 46)


def test_champion_that_learned_the_whole_test_split_is_an_error_with_a_way_out(learned_some, answering):
    test = pd.read_parquet(learned_some / "test.parquet")
    test.assign(unit=99).to_parquet(learned_some / "test.parquet")
    set_deps("classifier", "1", emails=md5_of(learned_some))
    with pytest.raises(UserError, match="champion 2 learned all test rows, so none are left to compare on"):
        compare("classifier", "1", "2")


@patch.dict(sys.modules)  # which forgets the quiz afterwards
def test_application_without_a_review_has_its_evaluations_compared(copied, tmp_path, monkeypatch):
    (tmp_path / "quiz").mkdir()
    for name, code in QUIZ.items():
        (tmp_path / "quiz" / f"{name}.py").write_text(f"from llm.config import Config, TrainConfig\n{code}")
    monkeypatch.setattr(tasks.applications, "__path__", [*tasks.applications.__path__, str(tmp_path)])
    params = yaml.safe_load(Path("params.yaml").read_text())
    train = params["applications"]["assistant"]["train"]
    params["applications"]["quiz"] = {
        "dataset": "emails", "base": "published", "objective": "assistant", "evaluate": {},
        "rehearses": "data/replay/nothing.jsonl",
        "train": {name: value for name, value in train.items() if name in TrainConfig.model_fields},
    }  # fmt: skip
    Path("params.yaml").write_text(yaml.safe_dump(params))
    MlflowClient().create_registered_model("threestage-quiz")
    for accuracy in (0.7, 0.8):
        with mlflow.start_run() as run:
            ends = {"accuracy_low": accuracy - 0.05, "accuracy_high": accuracy + 0.05}
            mlflow.log_metrics({"accuracy": accuracy, "baseline_accuracy": 0.6} | ends)
        write_record(run.info.run_id, Record("register", Hashes({}, {"data/processed/emails": "d1"}, {}), {}))
        MlflowClient().create_model_version("threestage-quiz", run.info.artifact_uri, run.info.run_id)
    comparison = compare("quiz", "2", "1")
    assert comparison.incomparable == "no rows are asked, as tasks/applications/quiz/measure.py names none"
    assert comparison.metrics["accuracy"].to_champion.value == pytest.approx(0.1)
    assert comparison.metrics["accuracy"].to_baseline.verdict == "better"
    assert comparison.checked == 0
    set_deps("quiz", "1", emails="d2")  # evaluations on other rows are not held against each other
    assert compare("quiz", "2", "1").metrics["accuracy"].champion is None


def test_foundations_are_compared_on_the_same_text(copied, answering):
    set_deps("foundation", "1", corpus=md5_of(Path("data/processed/corpus")))
    assert register("foundation") == "2"
    set_deps("foundation", "2", corpus="gone.dir")
    answering.tables = {"1": pd.DataFrame({"bits": [900.0, 900.0]}), "2": pd.DataFrame({"bits": [1000.0, 500.0]})}
    comparison = compare("foundation", "1", "2")
    metric = comparison.metrics["bits_per_byte"]
    size = piece_rows(Path("data/processed/corpus"))["bytes"].sum()
    assert (metric.paired, metric.champion) == (pytest.approx(1800 / size), pytest.approx(1500 / size))
    assert metric.to_champion.value == pytest.approx(metric.paired - metric.champion)
    assert metric.value == 5  # the evaluation reads in another way
    assert (comparison.unit, comparison.rows, comparison.learned) == (
        "texts",
        2,
        None,
    )  # whether it learned them: not known
    assert "ngram_bits_per_byte" not in comparison.metrics  # another baseline's
    assert [row.challenger.endswith(" bits a byte") for row in comparison.errors] == [True, True]


def test_first_foundation_is_asked_a_few_pieces_and_has_its_evaluations_metrics(in_project, answering):
    answering.tables["1"] = pd.DataFrame({"bits": [1.0, 2.0]})
    comparison = compare("foundation", "1")
    assert (answering.asked, comparison.checked, comparison.rows, comparison.errors) == ([("1", 2)], 2, 0, ())
    assert comparison.metrics["bits_per_byte"].to_baseline.verdict == "no clear difference"
