"""Versions are compared by their evaluations' answers; where they are asked, they answer in this process."""

from pathlib import Path

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
from tasks.applications.classifier.review import rows as mails_of
from tasks.applications.foundation.review import rows as pieces_of
from tasks.registry.record import Record, write_record
from tasks.review.comparison import compare
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
    "EVALUATION = Evaluation(params=Params, measure=print)\n",
}


@pytest.fixture
def mails() -> pd.DataFrame:
    """The rows that both versions of the classifier are asked."""
    return mails_of(Path("data/processed/emails"))


def drawn(rows: pd.DataFrame) -> pd.Series:
    """Labels of which two in three are right."""
    return rows["expected"].where(pd.Series(range(len(rows))) % 3 > 0, rows["expected"].map(FLIP))


def write_evidence(number: str, rows: pd.DataFrame, labels: pd.Series) -> None:
    """Log with a version of the classifier that its evaluation gave the mails these labels, each at 0.75."""
    run = MlflowClient().get_model_version("threestage-classifier", number).run_id
    table = labelled(labels).drop(columns=["label", "error"]).assign(predicted=labels, id=rows["id"], probability=0.75)
    table = table.assign(label=rows["expected"], slice=rows["everyday"], baseline_right=True)
    slices = pd.DataFrame({"by": ["label"], "slice": ["ham"], "baseline_right": [0.25]})
    for name, each in {"predictions": table[:40], "behavioural": table[40:], "slices": slices}.items():
        MlflowClient().log_text(run, each.to_csv(index=False), f"evaluation/evidence/{name}.csv")


def test_evaluations_of_the_same_rows_are_compared_and_only_a_few_rows_are_asked_again(copied, answering, mails):
    labels = drawn(mails)
    right = labels == mails["expected"]
    write_evidence("1", mails, labels)
    write_evidence("2", mails, labels.map(FLIP))
    answering.tables["1"] = labelled(labels.where(mails.index > 0, labels.map(FLIP)))  # the first is another now
    found = compare("classifier", "1", "2")
    assert answering.asked == [("1", 16)]
    assert (found.rows, found.checked, found.agreed, found.seconds) == (46, 16, 15, {"challenger": 0.01})
    assert (found.failed, found.incomparable, found.answered) == ("", "", True)
    assert {row.id for row in found.won} == {*mails["id"][right]}
    assert {row.id for row in found.lost} == {*mails["id"][~right]}
    assert found.won[0].challenger.split()[0] == found.won[0].expected != found.won[0].champion.split()[0]
    assert len(found.errors) == 8
    actual, called = mails["expected"][:40] == "spam", labels[:40] == "spam"
    metric = found.metrics["f1"]
    assert metric.paired == pytest.approx(sklearn.metrics.f1_score(actual, called))
    assert metric.champion == pytest.approx(sklearn.metrics.f1_score(actual, ~called))
    assert metric.to_champion.low <= metric.to_champion.value <= metric.to_champion.high
    assert (metric.value, metric.to_baseline.value) == (0.5, pytest.approx(0.1))  # as logged
    slices = {(each.by, each.name): each for each in found.slices}
    assert [slices[key].baseline for key in (("label", "ham"), ("everyday", "thanks"), ("label", "spam"))] == [
        0.25, 1.0, None,
    ]  # fmt: skip
    everyday = slices["everyday", "thanks"]
    assert (everyday.rows, everyday.challenger) == (3, pytest.approx(right[40:43].mean()))
    assert everyday.difference.value == pytest.approx(everyday.challenger - everyday.champion)


def test_without_a_champion_the_challenger_stands_against_the_baseline(copied, answering, mails):
    write_evidence("1", mails, drawn(mails))
    answering.tables["1"] = labelled(drawn(mails))
    found = compare("classifier", "1")
    assert (found.against, found.champion, found.rows, found.agreed) == ("baseline", None, 46, 16)
    assert (found.lost, found.won, found.answered) == ([], [], False)
    assert found.metrics["f1"].to_champion is None
    assert found.metrics["f1"].to_baseline.verdict == "better"
    assert [each.difference for each in found.slices if each.by == "label"] == [None, None]


def test_a_version_that_was_evaluated_on_other_rows_answers_again(copied, answering, mails):
    write_evidence("1", mails, mails["expected"])
    write_evidence("2", mails, mails["expected"])
    set_deps("classifier", "2", behavioural="other mails")
    answering.tables |= {"1": labelled(mails["expected"]), "2": labelled(drawn(mails))}
    found = compare("classifier", "1", "2")
    assert answering.asked == [("1", 16), ("2", 46)]
    assert found.seconds.keys() == {"challenger", "champion"}
    assert len(found.won) == 16


@pytest.mark.parametrize(
    ("gives_none", "failed", "rows"), [("1", "models:/threestage-classifier/1 gives no answers", 0), ("2", "", 46)]
)
def test_a_version_that_gives_no_answers_is_a_finding(copied, answering, mails, gives_none, failed, rows):
    answering.tables = {"1": labelled(mails["expected"]), "2": labelled(mails["expected"])}
    del answering.tables[gives_none]
    found = compare("classifier", "1", "2")
    assert found.incomparable == f"models:/threestage-classifier/{gives_none} gives no answers"
    assert (found.failed, found.rows) == (failed, rows)
    assert found.metrics["f1"].value == 0.5  # by its own evaluation
    assert found.metrics["f1"].to_champion == Difference(0.0)  # of their evaluations, without an interval


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
        for name, each in zip(("train", "validation"), splits, strict=False):
            pd.DataFrame({"unit": each}).to_parquet(data / f"{name}.parquet")
        mails.assign(unit=splits[-1]).to_parquet(data / "test.parquet")
        with Repo() as repo:
            repo.add(str(data))
        set_deps("classifier", number, emails=md5_of(data))
    return data


def test_test_rows_that_the_champion_learned_are_left_out_and_counted(learned_some, answering, mails):
    write_evidence("1", mails, mails["expected"])
    answering.tables = {"1": labelled(mails["expected"]), "2": labelled(mails["expected"].map(FLIP))}
    found = compare("classifier", "1", "2")
    assert (found.learned, found.rows) == (5, 41)
    assert not {row.id for row in found.won} & {f"mail-{n}" for n in range(35, 40)}
    assert found.left_out == "Test mails left out because the champion learned them: 5."
    assert found.metrics["f1"].to_baseline.value == pytest.approx(0.1)  # of all rows, as it was logged
    set_deps("classifier", "2", emails="gone.dir")
    found = compare("classifier", "1", "2")
    assert (found.learned, found.rows) == (None, 46)


def test_a_champion_that_learned_the_whole_test_split_is_an_error_with_a_way_out(learned_some, answering):
    test = pd.read_parquet(learned_some / "test.parquet")
    test.assign(unit=99).to_parquet(learned_some / "test.parquet")
    set_deps("classifier", "1", emails=md5_of(learned_some))
    with pytest.raises(UserError, match="champion 2 learned all test rows, so none are left to compare on"):
        compare("classifier", "1", "2")


def test_an_application_without_a_review_has_its_evaluations_compared(copied, tmp_path, monkeypatch):
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
    found = compare("quiz", "2", "1")
    assert found.incomparable == "no rows are asked, as there is no tasks/applications/quiz/review.py"
    assert found.metrics["accuracy"].to_champion.value == pytest.approx(0.1)
    assert found.metrics["accuracy"].to_baseline.verdict == "better"
    assert found.checked == 0
    set_deps("quiz", "1", emails="d2")  # evaluations on other rows are not held against each other
    assert compare("quiz", "2", "1").metrics["accuracy"].champion is None


def test_two_foundations_write_the_same_text(copied, answering):
    set_deps("foundation", "1", corpus=md5_of(Path("data/processed/corpus")))
    assert register("foundation") == "2"
    set_deps("foundation", "2", corpus="gone.dir")
    answering.tables = {"1": pd.DataFrame({"bits": [900.0, 900.0]}), "2": pd.DataFrame({"bits": [1000.0, 500.0]})}
    found = compare("foundation", "1", "2")
    metric, size = found.metrics["bits_per_byte"], pieces_of(Path("data/processed/corpus"))["bytes"].sum()
    assert (metric.paired, metric.champion) == (pytest.approx(1800 / size), pytest.approx(1500 / size))
    assert metric.to_champion.value == pytest.approx(metric.paired - metric.champion)
    assert metric.value == 5  # the evaluation reads in another way
    assert (found.unit, found.rows, found.learned) == ("pieces of text", 2, None)  # whether it learned them: not known
    assert "ppmd_bits_per_byte" not in found.metrics  # another baseline's
    assert [row.challenger.endswith(" bits a byte") for row in found.errors] == [True, True]


def test_a_first_foundation_is_asked_a_few_pieces_and_has_its_evaluations_metrics(in_project, answering):
    answering.tables["1"] = pd.DataFrame({"bits": [1.0, 2.0]})
    found = compare("foundation", "1")
    assert (answering.asked, found.checked, found.rows, found.errors) == ([("1", 2)], 2, 0, ())
    assert found.metrics["bits_per_byte"].to_baseline.verdict == "no clear difference"
