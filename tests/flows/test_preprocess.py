from pathlib import Path

import pandas as pd
import pytest

from flows.preprocess import check, read, split_rows
from llm.errors import UserError
from tasks.data.splits import Split
from tasks.datasets import Dataset, find

PARAMS = {"seed": 1, "validation": 0.1, "test": 0.1, "near_duplicate": 0.8}


@pytest.fixture
def mails(tmp_path, monkeypatch):
    """Two sources of emails below data/raw/emails: 40 real ones of two labels, and two made-up ones."""
    monkeypatch.chdir(tmp_path)
    folder = Path("data/raw/emails")
    folder.mkdir(parents=True)
    rows = [f"{('urgent', 'can wait')[n % 2]},Number {n},word{n} of{n} a{n} message{n}" for n in range(40)]
    (folder / "real.csv").write_text("\n".join(["label,subject,body", *rows]) + "\n")
    (folder / "made.csv").write_text("label,subject,body\nurgent,Fire,the house burns\ncan wait,Lunch,at noon\n")
    return folder


def test_a_glob_of_train_only_that_fits_no_source_stops_the_stage(mails):
    emails = find("emails")
    labels = ["urgent", "can wait"]
    with pytest.raises(UserError, match=r"'mad/\*' fits no source; sources are made\.csv, real\.csv"):
        read.fn("emails", emails, emails.params(**PARAMS, labels=labels, train_only=["made.csv", "mad/*"]))
    assert len(read.fn("emails", emails, emails.params(**PARAMS, labels=labels, train_only=["made.csv"]))) == 42


def test_train_only_of_a_dataset_without_sources_is_an_error_and_no_key_error(mails):
    bare = Dataset(
        params=Split,
        read=lambda folder, params: pd.concat(map(pd.read_csv, sorted(folder.iterdir()))).assign(id=range(42)),
        text=lambda table: table["body"],
        expectations=list,
    )
    with pytest.raises(UserError, match="have no column `source`"):
        read.fn("emails", bare, Split(**PARAMS, train_only=("made",)))


def test_labels_of_the_parameters_are_what_every_split_must_have(mails, tmp_path):
    emails = find("emails")
    params = emails.params(**PARAMS, labels=["urgent", "can wait"])
    table = split_rows.fn(read.fn("emails", emails, params), emails, params)
    summary = check.fn("emails", len(table), table, emails, params, tmp_path / "report").iloc[0]
    assert summary[["splits_of_urgent", "splits_of_can wait"]].tolist() == [3, 3]
    third = emails.params(**PARAMS, labels=["urgent", "can wait", "no answer"])
    with pytest.raises(UserError, match=r"rows_of_no answer: .* observed 0"):
        check.fn("emails", len(table), table, emails, third, tmp_path / "other")


def test_a_corpus_is_shared_out_by_characters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data/raw/corpus/a").mkdir(parents=True)
    texts = [" ".join(f"r{n}w{i}" for i in range(1_000 if n % 10 else 9)) for n in range(200)]
    Path("data/raw/corpus/a/rows.txt").write_text("\n\n".join(texts))
    Path("data/raw/corpus/b").mkdir()
    for n, text in enumerate(texts):
        Path(f"data/raw/corpus/b/{n}.txt").write_text(text)
    corpus = find("corpus")
    params = corpus.params(**PARAMS)
    shared = split_rows.fn(read.fn("corpus", corpus, params), corpus, params)
    sizes = shared["text"].str.len().groupby([shared["source"], shared["split"]]).sum().unstack()
    shares = sizes.div(sizes.sum(axis=1), axis=0)
    for source in "ab":
        assert shares.loc[source, "validation"] == pytest.approx(0.1, abs=0.006)
        assert shares.loc[source, "test"] == pytest.approx(0.1, abs=0.006)
