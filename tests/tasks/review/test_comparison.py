import shutil
from collections import OrderedDict
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import sklearn.metrics
import tiktoken
import torch
import yaml
from dvc.repo import Repo
from mlflow import MlflowClient
from mlflow.tracking._tracking_service import utils

import tasks.applications
import tasks.evaluation
from llm.errors import UserError
from llm.model.gpt import GPT
from llm.objectives import load_for_inference
from llm.objectives.assistant import serve as serve_assistant
from llm.objectives.classifier import serve
from llm.tokenizer import end_of_text
from tasks.applications import review as find_review
from tasks.applications.assistant import review as assistant
from tasks.applications.classifier import review as classifier
from tasks.applications.foundation import review as foundation
from tasks.registry.record import Record, write_record
from tasks.registry.tracking import configure_tracking
from tasks.review.comparison import compare
from tasks.review.metrics import Difference
from tasks.stages.hashes import Hashes, md5_of
from tests.tasks.review.conftest import set_deps

pytestmark = pytest.mark.slow

QUIZ = """
from llm.config import Config
from tasks.applications import {kind}
class Params(Config):
    rows: int = 1
{name} = {kind}({fields})
"""


def test_both_answer_by_the_code_that_they_ship(in_project):
    """The champion has the challenger's weights, and code that gives each mail the other label."""
    found = compare("classifier", "1", "2")
    rows = classifier.rows(in_project / "data/processed/emails")
    model, encoding = load_for_inference(in_project / "made/c1/classifier")
    labels = pd.DataFrame(serve(model, encoding, rows[["subject", "body"]].to_dict("records")))["label"]
    right = (labels == rows["expected"]).tolist()
    assert 0 < sum(right) < 45
    test = slice(0, 40)
    actual, called = rows["expected"][test] == "spam", labels[test] == "spam"
    metric = found.metrics["f1"]
    assert metric.paired == pytest.approx(sklearn.metrics.f1_score(actual, called))
    assert metric.champion == pytest.approx(sklearn.metrics.f1_score(actual, ~called & labels[test].notna()))
    assert metric.to_champion.value == pytest.approx(metric.paired - metric.champion)
    assert metric.to_champion.low <= metric.to_champion.value <= metric.to_champion.high
    assert (metric.value, metric.to_baseline.value) == (0.5, pytest.approx(0.1))  # as logged
    assert found.metrics["everyday_ham"].paired + found.metrics["everyday_ham"].champion == pytest.approx(1)
    assert (found.rows, found.checked, found.agreed, found.unanswered) == (46, 46, None, 1)
    assert (found.failed, found.incomparable, found.other_rows) == ("", "", False)
    assert found.seconds.keys() == {"challenger", "champion"}
    won = {row.id for row in found.won}
    assert won == {each for each, is_right in zip(rows["id"], right, strict=True) if is_right}
    assert {row.id for row in found.lost} == {*rows["id"]} - won - {"mail-39"}  # which neither can answer
    one = found.won[0]
    assert one.challenger.split()[0] == one.expected != one.champion.split()[0]
    assert len(found.errors) == 8
    everyday = next(each for each in found.slices if each.name == "thanks")
    assert (everyday.rows, everyday.challenger) == (3, pytest.approx(sum(right[40:43]) / 3))
    assert everyday.difference.value == pytest.approx(everyday.challenger - everyday.champion)


@pytest.fixture
def copied(in_project, tmp_path, monkeypatch) -> Path:
    """A copy of the project, to change."""
    monkeypatch.setattr(utils, "_artifact_repos_cache", OrderedDict())  # MLflow's, of where runs were
    monkeypatch.chdir(shutil.copytree(in_project, tmp_path / "project"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'project/mlflow.db'}")
    configure_tracking()
    return tmp_path / "project"


def write_evidence(number: str, rows: pd.DataFrame, labels: pd.Series) -> None:
    """Log with a version of the classifier that its evaluation gave the mails these labels, each at 0.75."""
    run = MlflowClient().get_model_version("threestage-classifier", number).run_id
    table = pd.DataFrame({"id": rows["id"], "label": rows["expected"], "slice": rows["everyday"], "predicted": labels})
    for label, other in (("ham", "spam"), ("spam", "ham")):
        table[f"{label}_probability"] = table["predicted"].map({label: 0.75, other: 0.25})
    table = table.assign(probability=0.75, right=table["predicted"] == table["label"], baseline_right=True)
    slices = pd.DataFrame({"by": ["label"], "slice": ["ham"], "baseline_right": [0.25]})
    tables = {"predictions": table[:40], "behavioural": table[40:], "slices": slices}
    for name, each in tables.items():
        MlflowClient().log_text(run, each.to_csv(index=False), f"evaluation/evidence/{name}.csv")


def test_answers_of_the_evaluation_are_compared_without_asking_for_them_again(copied):
    """The champion, version 3, ships no code and could not answer."""
    rows = classifier.rows(copied / "data/processed/emails")
    model, encoding = load_for_inference(copied / "made/c1/classifier")
    served = pd.DataFrame(serve(model, encoding, rows[["subject", "body"]].to_dict("records")))["label"].fillna("ham")
    write_evidence("1", rows, served)
    write_evidence("3", rows, served.map({"ham": "spam", "spam": "ham"}))
    found = compare("classifier", "1", "3")
    right = served == rows["expected"]
    assert {row.id for row in found.won} == {*rows["id"][right]}
    assert {row.id for row in found.lost} == {*rows["id"][~right]}
    actual, called = rows["expected"][:40] == "spam", served[:40] == "spam"
    assert found.metrics["f1"].paired == pytest.approx(sklearn.metrics.f1_score(actual, called))
    assert found.metrics["f1"].champion == pytest.approx(sklearn.metrics.f1_score(actual, ~called))
    assert (found.rows, found.checked, found.agreed) == (46, 16, 16)
    assert found.seconds.keys() == {"challenger"}
    baseline = {(each.by, each.name): each.baseline for each in found.slices}
    assert (baseline["label", "ham"], baseline["everyday", "thanks"], baseline["label", "spam"]) == (0.25, 1.0, None)
    set_deps("classifier", "3", behavioural="other mails")
    assert compare("classifier", "1", "3").incomparable.startswith("models:/threestage-classifier/3 gives no answers")
    set_deps("classifier", "2", behavioural="other mails")
    found = compare("classifier", "1", "2")
    assert (found.other_rows, found.seconds.keys()) == (True, {"challenger", "champion"})


def test_a_challenger_that_was_evaluated_on_other_data_is_an_error_with_a_way_out(copied):
    set_deps("classifier", "1", emails="d9.dir")
    with pytest.raises(UserError, match=r"and version 1 learned from d9\.dir: check out its commit and run `dvc pull`"):
        compare("classifier", "1")


@pytest.fixture
def learned_some(copied) -> Path:
    """The data of a copied project whose champion, version 2, learned five mails of today's test split."""
    Repo.init(no_scm=True).close()
    data = Path("data/processed/emails")
    mails = pd.read_parquet(data / "test.parquet")
    drawn = {"2": ([35, 36, 37, 38], [39, 99], range(100, 140)), "1": ([200], [201], range(40))}
    for number, units in drawn.items():
        for name, each in zip(("train", "validation"), units, strict=False):
            pd.DataFrame({"unit": each}).to_parquet(data / f"{name}.parquet")
        mails.assign(unit=units[-1]).to_parquet(data / "test.parquet")
        with Repo() as repo:
            repo.add(str(data))
        set_deps("classifier", number, emails=md5_of(data))
    return data


def test_test_rows_that_the_champion_learned_are_left_out_and_counted(learned_some):
    rows = classifier.rows(learned_some)
    write_evidence("1", rows, rows["expected"])
    found = compare("classifier", "1", "2")
    assert (found.learned, found.rows, found.other_rows) == (5, 41, True)
    assert not {row.id for row in (*found.lost, *found.won)} & {f"mail-{n}" for n in range(35, 40)}
    assert found.left_out == "Test mails left out because the champion learned them: 5."
    assert found.metrics["f1"].to_baseline.value == pytest.approx(0.1)  # of all rows, as it was logged
    set_deps("classifier", "2", emails="gone.dir")
    found = compare("classifier", "1", "2")
    assert (found.learned, found.rows) == (None, 46)


def test_a_champion_that_learned_the_whole_test_split_is_an_error_with_a_way_out(learned_some):
    test = pd.read_parquet(learned_some / "test.parquet")
    test.assign(unit=99).to_parquet(learned_some / "test.parquet")
    set_deps("classifier", "1", emails=md5_of(learned_some))
    with pytest.raises(UserError, match="champion 2 learned all test rows, so none are left to compare on"):
        compare("classifier", "1", "2")


def test_which_text_another_foundation_learned_is_not_known(copied):
    set_deps("foundation", "2", corpus="gone.dir")
    found = compare("foundation", "1", "2")
    assert (found.learned, found.rows, found.other_rows) == (None, 2, True)


def test_an_assistant_without_a_champion_stands_against_the_baseline(in_project):
    found = compare("assistant", "2")
    assert found.against == "baseline"
    assert found.champion is None
    assert found.metrics["exact_match"].value == 0.1
    assert 0 <= found.metrics["rouge_l"].value < 0.5  # of random weights
    assert found.metrics["response_loss"].to_baseline.value == -1
    assert "nearest_exact_match" not in found.metrics
    assert (found.rows, list(found.lost), list(found.won)) == (12, [], [])
    assert {row.expected for row in found.errors} == {"the cat sat"}
    assert {each.name: each.rows for each in found.slices} == {"counting": 6, "small_talk": 6}
    rows = assistant.rows(in_project / "data/processed/instructions")
    asked = rows[["instruction", "input", "system", "history"]].to_dict("records")
    served = serve_assistant(*load_for_inference(in_project / "made/assistant-2/assistant"), asked, max_new_tokens=80)
    texts = dict(zip(rows["id"], (each["output"] for each in served), strict=True))
    assert {row.id: row.challenger for row in found.errors}.items() <= texts.items()
    assert len({*texts.values()}) > 1


def bits(model: GPT, encoding: tiktoken.Encoding, text: str) -> float:
    """The bits in which a model writes a text: of each token's chance, in windows of the model's context."""
    tokens, found, context = [end_of_text(encoding), *encoding.encode_ordinary(text)], 0.0, model.config.context_length
    for first in range(0, len(tokens) - 1, context):
        part = torch.tensor(tokens[first : first + context + 1])
        with torch.inference_mode():
            chances = model(part[None, :-1])[0].double().softmax(-1)
        found -= chances[range(len(part) - 1), part[1:]].log2().sum().item()
    return found


def test_two_foundations_write_the_same_text(in_project):
    found = compare("foundation", "1", "2")
    metric = found.metrics["bits_per_byte"]
    rows = foundation.rows(in_project / "data/processed/corpus")
    for version, value in ((1, metric.paired), (2, metric.champion)):
        model, encoding = load_for_inference(in_project / f"made/foundation-{version}/foundation")
        assert len(encoding.encode_ordinary(rows["text"][0])) > model.config.context_length
        total = sum(bits(model, encoding, text) for text in rows["text"])
        assert value == pytest.approx(total / sum(len(text.encode()) for text in rows["text"]), rel=1e-4)
    assert metric.paired != pytest.approx(metric.champion, rel=1e-2)
    assert metric.to_champion.value == pytest.approx(metric.paired - metric.champion)
    assert metric.value == 5  # the evaluation reads in another way
    assert (found.unit, found.rows) == ("pieces of text", 2)
    assert "ppmd_bits_per_byte" not in found.metrics  # another baseline's
    assert [row.challenger.endswith(" bits a byte") for row in found.errors] == [True, True]


def test_a_first_foundation_is_asked_a_few_pieces_and_has_its_evaluations_metrics(in_project):
    found = compare("foundation", "1")
    assert (found.checked, found.rows, found.errors) == (2, 0, ())
    assert found.metrics["bits_per_byte"].verdict("baseline") == "no clear difference"


def test_a_challenger_that_gives_no_answers_is_a_finding(in_project):
    found = compare("classifier", "3", "1")
    assert found.failed.startswith("models:/threestage-classifier/3 gives no answers")
    assert found.incomparable == found.failed
    assert found.metrics["f1"].value == 0.5  # by its own evaluation
    assert (found.rows, found.checked) == (0, 0)


def test_a_champion_that_gives_no_answers_leaves_the_challenger_alone(in_project):
    found = compare("classifier", "1", "3")
    assert found.incomparable.startswith("models:/threestage-classifier/3 gives no answers")
    assert (found.failed, found.rows) == ("", 46)
    assert found.metrics["f1"].to_champion == Difference(0.0)  # of their evaluations, without an interval


def test_a_version_that_is_gone_is_named(in_project):
    with pytest.raises(ValueError, match=r"^threestage-classifier has no version 9, or no longer"):
        compare("classifier", "9")
    with pytest.raises(ValueError, match=r"^threestage-classifier has no version 8, or no longer"):
        compare("classifier", "1", "8")


@pytest.fixture
def quiz(in_project, tmp_path, monkeypatch) -> None:
    """An application of somebody's own, with two registered versions and no way of review."""
    forms = {
        "train": ("Training", "TRAINING", "objective='assistant', train=Params, prepare=print"),
        "evaluate": ("Evaluation", "EVALUATION", "params=Params, measure=print"),
    }
    (tmp_path / "slices/quiz").mkdir(parents=True)
    for part, (kind, name, fields) in forms.items():
        (tmp_path / f"slices/quiz/{part}.py").write_text(QUIZ.format(kind=kind, name=name, fields=fields))
    monkeypatch.setattr(tasks.applications, "__path__", [*tasks.applications.__path__, str(tmp_path / "slices")])
    block = {"dataset": "instructions", "base": "published", "objective": "assistant", "train": {}, "evaluate": {}}
    params = yaml.safe_load((in_project / "params.yaml").read_text())
    params["applications"]["quiz"] = block
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(in_project / 'mlflow.db', tmp_path)}")
    configure_tracking()
    MlflowClient().create_registered_model("threestage-quiz")
    for accuracy in (0.7, 0.8):
        with mlflow.start_run() as run:
            ends = {"accuracy_low": accuracy - 0.05, "accuracy_high": accuracy + 0.05}
            mlflow.log_metrics({"accuracy": accuracy, "baseline_accuracy": 0.6} | ends)
        hashes = Hashes({}, {"data/processed/instructions": "d1.dir"}, {})
        write_record(run.info.run_id, Record("register", hashes, {}))
        MlflowClient().create_model_version("threestage-quiz", run.info.artifact_uri, run.info.run_id)


def test_an_application_without_a_review_has_its_evaluations_compared(quiz):
    with pytest.raises(ModuleNotFoundError):
        find_review("quiz")
    found = compare("quiz", "2", "1")
    assert found.incomparable == "no rows are asked, as there is no tasks/applications/quiz/review.py"
    assert found.metrics["accuracy"].to_champion.value == pytest.approx(0.1)
    assert found.metrics["accuracy"].verdict("baseline") == "better"
    assert found.checked == 0


def test_evaluations_on_other_test_rows_are_not_held_against_each_other(quiz):
    set_deps("quiz", "1", instructions="d2")
    found = compare("quiz", "2", "1")
    assert found.metrics["accuracy"].champion is None


def test_test_rows_that_are_missing_are_named(in_project, tmp_path, monkeypatch):
    shutil.copy("params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("data/processed/emails").mkdir(parents=True)
    with pytest.raises(OSError, match=r"^data/processed/emails: holds no test; run `dvc repro preprocess@emails`$"):
        compare("classifier", "1")
