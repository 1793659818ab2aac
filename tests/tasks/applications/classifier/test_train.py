import pandas as pd
import pytest

from llm.formats.model_folder import save_model
from llm.objectives.classifier import text_selection
from llm.training.workers import ALONE
from tasks.applications.classifier.train import Train, prepare


@pytest.fixture
def prepared(make_gpt, encoding, tmp_path):
    """Prepare a training on mails with these labels in train and in validation."""
    (tmp_path / "base").mkdir()
    save_model(tmp_path / "base", make_gpt(context_length=64), encoding, "language_model")

    def prepare_it(train: list[str], validation: list[str], **values):
        for split, labels in (("train", train), ("validation", validation)):
            subjects = [f"the cat {number}" for number in range(len(labels))]
            table = {"subject": subjects, "body": ["sat"] * len(labels), "label": labels}
            pd.DataFrame(table).to_parquet(tmp_path / f"{split}.parquet")
        short = {"seed": 1, "steps": 2, "batch_size": 1, "learning_rate": 1e-3, "evaluate_every": 1}
        params = Train(**short | {"checkpoint_every": 1, "max_tokens": 16} | values)
        return prepare(params, tmp_path, tmp_path / "base", ALONE)

    return prepare_it


def test_the_positive_label_is_the_second_and_by_default_the_last_of_the_alphabet(prepared):
    labels = ["spam", "ham", "spam"]
    assert prepared(labels, labels).model.config.labels == ("ham", "spam")
    assert prepared(labels, labels, positive="ham").model.config.labels == ("spam", "ham")
    three = ["c", "a", "b"]
    assert prepared(three, three).model.config.labels == ("a", "b", "c")


@pytest.mark.parametrize(
    ("train", "validation", "values", "message"),
    [
        (["ham", "ham"], ["ham"], {}, "all rows have the label 'ham'; a classifier tells two or more apart"),
        (["ham", "spam"], ["ham"], {}, "validation has no row with the label 'spam', which others have"),
        (["ham"], ["ham", "spam"], {}, "train has no row with the label 'spam', which others have"),
        (["ham", "spam"], ["spam", "ham"], {"positive": "junk"}, "train.positive: 'junk' is not one of the labels"),
    ],
)
def test_labels_that_can_not_be_learned_are_named(prepared, train, validation, values, message):
    with pytest.raises(ValueError, match=message):
        prepared(train, validation, **values)


def test_a_linear_model_is_fitted_before_the_training_whose_texts_it_chooses(prepared):
    setup = prepared(["ham", "spam"] * 6, ["ham", "spam"] * 3, ngram_buckets=64)
    assert setup.model.ngrams.buckets == 64
    assert setup.model.ngrams.idf.any()
    found = setup.finish()
    assert found.keys() == {"calibrated_validation_loss", "calibrated_validation_f1", "read_by_gpt"}
    assert prepared(["ham", "spam"], ["ham", "spam"]).model.ngrams is None


@pytest.mark.parametrize("certain", [None, 0.9])
def test_texts_are_left_out_only_where_the_linear_model_may_decide_alone(prepared, monkeypatch, caplog, certain):
    monkeypatch.setattr(text_selection, "FEW", 0)
    with caplog.at_level("INFO"):
        prepared(["ham", "spam"] * 6, ["ham", "spam"], ngram_buckets=64, certain=certain)
    assert any("the GPT learns from" in record.message for record in caplog.records) == (certain is not None)
