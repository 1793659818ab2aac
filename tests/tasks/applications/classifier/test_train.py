import pandas as pd
import pytest
import torch

from llm.formats.model_folder import save_model
from llm.loaded_model import LoadedModel
from llm.model.lora import merge_lora
from llm.training.loop import train
from tasks.applications.classifier.train import prepare
from tasks.training.labelled import TrainClassifier
from tasks.training.setup import TrainingFiles

SHORT = {"seed": 1, "steps": 2, "batch_size": 1, "learning_rate": 1e-3, "evaluate_every": 1, "checkpoint_every": 1}
SHORT |= {"max_tokens": 16}


@pytest.fixture
def prepared(make_gpt, encoding, tmp_path):
    """Prepare a training on mails with these labels in train and in validation."""
    (tmp_path / "base").mkdir()
    save_model(tmp_path / "base", LoadedModel(make_gpt(context_length=64), encoding), "language_model")

    def prepare_it(learned: list[str], validation: list[str], **values):
        for split, labels in (("train", learned), ("validation", validation)):
            subjects = [f"the cat {number}" for number in range(len(labels))]
            table = {"subject": subjects, "body": ["sat"] * len(labels), "label": labels, "unit": range(len(labels))}
            pd.DataFrame(table).to_parquet(tmp_path / f"{split}.parquet")
        return prepare(TrainClassifier(**SHORT | values), TrainingFiles(dataset=tmp_path, base=tmp_path / "base"))

    return prepare_it


def test_labels_are_in_alphabetical_order_but_for_the_one_that_passes(prepared):
    labels = ["spam", "ham", "spam"]
    assert prepared(labels, labels).loaded.model.config.labels == ("ham", "spam")
    assert prepared(labels, labels, passes="spam").loaded.model.config.labels == ("spam", "ham")
    three = ["c", "a", "b"]
    assert prepared(three, three, passes="b").loaded.model.config.labels == ("b", "a", "c")


@pytest.mark.parametrize(
    ("train", "validation", "values", "message"),
    [
        (["ham", "ham"], ["ham"], {}, "all rows have the label 'ham'; a classifier tells two or more apart"),
        (["ham", "spam"], ["ham"], {}, "validation has no row with the label 'spam', which others have"),
        (["ham"], ["ham", "spam"], {}, "train has no row with the label 'spam', which others have"),
        (["ham", "spam"], ["spam", "ham"], {"passes": "junk"}, "train.passes: 'junk' is not one of the labels"),
    ],
)
def test_labels_that_can_not_be_learned_are_refused(prepared, train, validation, values, message):
    with pytest.raises(ValueError, match=message):
        prepared(train, validation, **values)


def test_head_is_fitted_after_the_last_step(prepared):
    labels = ["ham", "spam"] * 6
    setup = prepared(labels, labels, ngram_buckets=64)
    assert train(setup.loaded.model, TrainClassifier(**SHORT), setup.objective)[-1]["step"] == 2
    assert not setup.loaded.model.ngrams.weight.any()
    assert setup.finish().keys() == {"validation_loss", "validation_f1"}
    assert setup.loaded.model.ngrams.weight.any()


def test_last_blocks_and_head_alone_learn_and_the_curve_is_of_validation(prepared):
    labels = ["ham", "spam"] * 6
    lora = {"rank": 2, "alpha": 4, "targets": ["projection"]}
    setup = prepared(labels, labels, lora=lora, last_blocks=1, ngram_buckets=64)
    assert (len(setup.loaded.model.frozen.blocks), len(setup.loaded.model.gpt.blocks)) == (1, 1)
    before = {name: weight.clone() for name, weight in setup.loaded.model.named_parameters()}
    history = train(setup.loaded.model, TrainClassifier(**SHORT), setup.objective)
    assert [row["step"] for row in history if "validation_loss" in row] == [1, 2]
    moved = {name for name, weight in setup.loaded.model.named_parameters() if not torch.equal(weight, before[name])}
    assert {name.split(".")[0] for name in moved} == {"gpt", "head"}
    merge_lora(setup.loaded.model)
    assert setup.finish()["validation_loss"] > 0
    assert setup.loaded.model.frozen is None
    assert len(setup.loaded.model.gpt.blocks) == 2
