import numpy as np
import pandas as pd
import pytest
import sklearn.metrics

from tasks.applications.classifier.review import evidence, measure, rows, score
from tasks.review.metrics import metrics_of


@pytest.fixture
def asked() -> pd.DataFrame:
    labels = ["spam" if n % 3 == 0 else "ham" for n in range(900)]
    return pd.DataFrame({"expected": labels, "metric": None})


def answered(rows: pd.DataFrame, names: tuple[str, ...] = ("ham", "spam")) -> pd.DataFrame:
    """Answers that are mostly right, with probabilities that go with them."""
    generator = np.random.default_rng(1)
    odds = np.stack([(rows["expected"] == name) + generator.normal(size=len(rows)) for name in names], axis=1)
    chances = np.exp(odds) / np.exp(odds).sum(axis=1, keepdims=True)
    label = np.array(names)[chances.argmax(axis=1)]
    columns = {f"{name}_probability": chances[:, n] for n, name in enumerate(names)}
    return pd.DataFrame({"label": label, **columns, "error": None})


def test_metrics_are_those_of_scikit_learn(asked):
    answers = answered(asked)
    found = {name: sample.value for name, sample in measure(asked, answers).items()}
    actual, called = (asked["expected"] == "spam").to_numpy(int), (answers["label"] == "spam").to_numpy(int)
    assert found == pytest.approx(
        {
            "accuracy": sklearn.metrics.accuracy_score(actual, called),
            "f1": sklearn.metrics.f1_score(actual, called),
            "false_positive_rate": called[actual == 0].mean(),
            "recall": sklearn.metrics.recall_score(actual, called),
        }
    )


def test_three_labels_have_the_mean_f1_and_one_that_a_resample_lacks_costs_none():
    labels = [("a", "b", "c")[n % 3] for n in range(90)]
    asked = pd.DataFrame({"expected": labels, "metric": None})
    answers = answered(asked, ("a", "b", "c"))
    found = measure(asked, answers)
    assert found["f1"].value == pytest.approx(sklearn.metrics.f1_score(labels, answers["label"], average="macro"))
    assert found.keys() == {"accuracy", "f1"}
    f1 = measure(asked, answers.assign(label=labels))["f1"]
    rows = np.flatnonzero(np.array(labels) != "c")
    assert f1.statistic(*(column[rows] for column in f1.columns), axis=-1) == f1.value == 1


def test_metrics_of_one_label_are_not_held_against_those_of_another(asked):
    mine = measure(asked, answered(asked))
    its = measure(asked, answered(asked)[["label", "spam_probability", "ham_probability", "error"]])
    logged = dict.fromkeys(mine, 0.5)
    found = metrics_of(logged, None, mine, (mine, its))
    assert {name for name, metric in found.items() if metric.to_champion is not None} == {"accuracy"}
    again = metrics_of(logged, None, mine, (mine, measure(asked, answered(asked))))
    assert all(metric.to_champion.is_none for metric in again.values())


def test_many_resamples_at_once_give_what_each_gives(asked):
    resamples = np.random.default_rng(2).integers(0, len(asked), size=(5, len(asked)))
    for sample in measure(asked, answered(asked)).values():
        together = sample.statistic(*(column[resamples] for column in sample.columns), axis=-1)
        alone = [sample.statistic(*(column[rows] for column in sample.columns), axis=-1) for rows in resamples]
        assert together == pytest.approx(np.array(alone))


def test_a_row_without_an_answer_is_wrong_and_says_why(asked):
    answers = answered(asked)
    answers.loc[0, ["label", "ham_probability", "spam_probability"]] = None
    answers.loc[0, "error"] = "there is no text to classify"
    found = score(asked, answers)
    assert found.loc[0].tolist() == [0.0, "no answer: there is no text to classify", 0.0]
    assert measure(asked, answers)["accuracy"].value == found["score"].mean()


def test_an_unsure_answer_counts_as_what_it_leans_to_and_people_read_that_it_is_unsure(asked):
    sure = answered(asked)
    answers = sure.assign(leaning=sure["label"], label=sure["label"].where(asked.index > 0, "unsure"))
    assert score(asked, answers)["score"].equals(score(asked, sure)["score"])
    assert score(asked, answers)["answer"][0].startswith("unsure (spam 0.")
    assert measure(asked, answers)["f1"].value == measure(asked, sure)["f1"].value


def test_everyday_mails_stand_behind_the_test_split_and_count_by_themselves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("data/processed/emails", "data/behavioural/emails"):
        (tmp_path / folder).mkdir(parents=True)
    mail = {"id": ["one", "two"], "subject": ["a", "b"], "body": ["x " * 60, "y"], "label": ["ham", "spam"]}
    pd.DataFrame(mail | {"source": "s/p/easy"}).to_parquet("data/processed/emails/test.parquet")
    pd.DataFrame(mail | {"slice": ["thanks", "offers"]}).to_json(
        "data/behavioural/emails/test.jsonl", orient="records", lines=True
    )
    found = rows(tmp_path / "data/processed/emails")
    assert found["everyday"].tolist() == [None, None, "thanks", "offers"]
    assert found["source"].tolist() == ["easy", "easy", None, None]
    assert found["words"].tolist() == ["51 to 200", "to 50", None, None]
    assert found["label"].tolist() == ["ham", "spam", None, None]
    assert found["expected"].tolist() == ["ham", "spam"] * 2
    assert found["text"].tolist()[1] == "b | y"
    said = {"label": ["ham", "spam", "ham", "ham"], "ham_probability": 0.6, "spam_probability": 0.4, "error": None}
    metrics = measure(found, pd.DataFrame(said))
    assert metrics["f1"].value == 1
    assert metrics["everyday_ham"].value == 1
    assert metrics["everyday_spam"].value == 0


def test_answers_are_read_from_what_the_evaluation_wrote(tmp_path):
    asked = pd.DataFrame(
        {"id": ["a", "a", "thanks-1", "offer-1", "offer-2"], "expected": ["ham", "spam", *["ham"] * 3]}
    )
    asked = asked.assign(everyday=[None, None, "thanks", "offers", "offers"], metric=[None, None, *["everyday"] * 3])
    files = {
        "predictions.csv": "id,actual,predicted,ham_probability,spam_probability\n"
        "a,ham,ham,0.9,0.1\na,spam,ham,0.6,0.4\n",
        "slices.csv": "by,slice,rows,baseline_right\nlabel,ham,1,0.25\n",
        "behavioural.csv": "id,label,slice,predicted,probability,right,baseline_right\n"
        "offer-1,spam,offers,spam,0.7,True,True\nthanks-1,ham,thanks,ham,0.8,True,False\n",
    }
    assert evidence(asked, tmp_path) is None
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    found, baseline = evidence(asked, tmp_path)
    assert found.sort_index().index.tolist() == [0, 1, 2, 3]  # the evaluation left out offer-2
    assert found["label"].sort_index().tolist() == ["ham", "ham", "ham", "spam"]
    assert found["spam_probability"].sort_index().tolist() == pytest.approx([0.1, 0.4, 0.2, 0.7])
    assert found["error"].isna().all()
    assert baseline == {("label", "ham"): 0.25, ("everyday", "offers"): 1.0, ("everyday", "thanks"): 0.0}
