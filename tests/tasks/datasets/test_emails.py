import json

import pandas as pd
import pytest
import yaml

from llm.errors import UserError
from tasks.data.quality import Check, label_expectations, validate
from tasks.datasets.emails import COLUMNS, DATASET, Params, email_expectations, read_emails, row_text, thread

PARAMS = Params(seed=1, validation=0.15, test=0.2, near_duplicate=0.8)
TICKETS = Params(**PARAMS.model_dump() | {"labels": ("urgent", "can wait", "no_answer")})


def raw(body, subject="Hello"):
    return f"From: a@b.org\nSubject: {subject}\n\n{body}"


def spam_assassin(folder, group, *, number, text):
    path = folder / "source" / "data" / group / f"{number}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"id": number, "group": group, "checksum": {}, "text": text}))


def test_emails_of_messages_and_tables_are_one_table_in_the_order_of_paths(tmp_path):
    spam_assassin(tmp_path, "spam-1", number=2, text=raw("Buy this now"))
    spam_assassin(tmp_path, "easy-ham-1", number=1, text=raw("See you"))
    spam_assassin(tmp_path, "hard-ham-1", number=1, text=raw("", subject=""))
    (tmp_path / "mine.csv").write_text('subject,label,body\n"A, b",spam,"two\nlines"\nc,ham,\n')
    (tmp_path / "more.jsonl").write_text('\n{"label": "ham", "subject": "s", "body": "<html>b</html>"}\n')
    (tmp_path / ".gitignore").write_text("*")
    table = read_emails(tmp_path, PARAMS)
    assert table.to_dict("split")["data"] == [
        ["mine.csv#2", "mine.csv", "A, b", "two\nlines", "spam", "a b"],
        ["mine.csv#3", "mine.csv", "c", "", "ham", "c\n"],
        ["more.jsonl#2", "more.jsonl", "s", "b", "ham", "s\nb"],
        ["source/data/easy-ham-1/1.json", "source/data/easy-ham-1", "Hello", "See you", "ham", "Hello\nSee you"],
        ["source/data/spam-1/2.json", "source/data/spam-1", "Hello", "Buy this now", "spam", "Hello\nBuy this now"],
    ]
    assert list(table) == COLUMNS
    assert row_text(table)[0] == "A, b\ntwo\nlines"
    expectations = [*email_expectations(), *label_expectations(PARAMS.labels)]
    validate("emails", [Check("rows", [table], expectations)]).require_success()


def test_thread_is_one_group_and_a_subject_of_one_word_makes_none():
    thread_of = ["Bug in make", "Re: bug in MAKE!", "[list] Re: Bug in make", "RE[2]: Fwd: Bug in make"]
    table = pd.DataFrame({"subject": [*thread_of, "[list] Hello", "Re: hello", "", "In re: a bug"], "body": "x"})
    assert thread(table).tolist() == [*["bug in make"] * 4, "[list] Hello\nx", "Re: hello\nx", "\nx", "in re a bug"]


def test_labels_are_those_of_the_parameters(tmp_path):
    (tmp_path / "mine.csv").write_text("label,subject,body\ncan wait,a,b\nurgent,c,d\n")
    spam_assassin(tmp_path, "urgent-1", number=1, text=raw("The house burns"))
    assert read_emails(tmp_path, TICKETS)["label"].tolist() == ["can wait", "urgent", "urgent"]
    assert DATASET.labels(TICKETS) == ("urgent", "can wait", "no_answer")
    assert DATASET.labels(PARAMS) == ("ham", "spam")
    (tmp_path / "more.csv").write_text("label,subject,body\nspam,e,f\n")
    with pytest.raises(UserError, match=r"more\.csv, row 2: label 'spam' is not one of urgent, can wait, no_answer$"):
        read_emails(tmp_path, TICKETS)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["spam"], "at least 2 items"),
        (["a", "b", "a"], "'a' stands here twice"),
        (["a", ""], "is no word of letters"),
        (["a", " b"], "is no word of letters"),
        (["a", "b!"], "is no word of letters"),  # names of MLflow's metrics
        ([True, False], "valid string"),
    ],
)
def test_labels_that_are_too_few_repeated_or_no_words_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        Params(**PARAMS.model_dump() | {"labels": labels})


def test_emails_that_are_equal_with_several_labels_are_dropped_and_near_ones_stay(tmp_path, caplog):
    rows = ["ham,Lunch,at noon", "spam,Win,a house", "spam,Lunch,at noon", "ham,Lunch,at noon", "ham,lunch,At noon!"]
    rows += ["ham,Win,a house", "ham,Twice,the same", "ham,Twice,the same"]
    (tmp_path / "mine.csv").write_text("\n".join(["label,subject,body", *rows]) + "\n")
    with caplog.at_level("WARNING"):
        table = read_emails(tmp_path, PARAMS)
    assert table["id"].tolist() == ["mine.csv#6", "mine.csv#8", "mine.csv#9"]
    assert table.index.tolist() == [0, 1, 2]
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "5 rows left out: equal ones have several labels, such as mine.csv#2 (ham) and mine.csv#4 (spam)"
    ]


def feedback(*rows: tuple[str, str, str, str]) -> str:
    """Rows as the app writes them: label, subject, body, client."""
    table = pd.DataFrame(rows, columns=["label", "subject", "body", "client"])
    seconds = pd.Series(range(len(table)), dtype=str).str.zfill(2)
    return table.assign(version="m/1", time="2026-01-01T00:00:" + seconds).to_json(orient="records", lines=True)


def test_feedback_counts_the_last_word_of_each_network_and_the_majority_wins(tmp_path):
    rows = [("ham", "Win", "a house", "x"), ("ham", "Lunch", "at noon", "x"), ("spam", "WIN", "a house!", "x")]
    rows += [("ham", "Pills", "cheap", "x"), ("spam", "Pills", "cheap", "y"), ("spam", "Lunch", "at one", "y")]
    rows += [("spam", "", "\n", "y"), ("spam", "Win", "a house", "y"), ("ham", "win", "A house...", "z")]
    (tmp_path / "feedback.jsonl").write_text(feedback(*rows))
    (tmp_path / "mine.jsonl").write_text(feedback(("ham", "Mine", "own", "x")))
    table = read_emails(tmp_path, PARAMS)
    assert table[["id", "label"]].to_numpy().tolist() == [
        ["mine.jsonl#1", "ham"],
        ["feedback.jsonl#2", "ham"],
        ["feedback.jsonl#3", "spam"],
        ["feedback.jsonl#6", "spam"],
    ]
    assert table["votes"].tolist()[1:] == [1, 2, 1]
    assert table["votes"].isna().tolist() == [True, False, False, False]


@pytest.mark.parametrize("name", ["tickets.jsonl", "mine/feedback.jsonl"])
def test_feedback_columns_mean_nothing_in_another_file(tmp_path, name):
    rows = feedback(("ham", "Win", "a house", "x"), ("spam", "Win", "a house", "x"), ("ham", "a", "b", "x"))
    (tmp_path / "mine").mkdir()
    (tmp_path / name).write_text(rows)
    assert read_emails(tmp_path, PARAMS)["id"].tolist() == [f"{name}#3"]


def test_feedback_of_which_no_row_is_kept_is_an_empty_table(tmp_path):
    (tmp_path / "feedback.jsonl").write_text(feedback(("ham", "Win", "a", "x"), ("spam", "Win", "a", "y")))
    assert read_emails(tmp_path, PARAMS).empty
    (tmp_path / "feedback.jsonl").write_text("")
    assert list(read_emails(tmp_path, PARAMS)) == COLUMNS


def test_label_map_key_that_yaml_reads_as_true_is_refused():
    with pytest.raises(ValueError, match='as truth values; put such keys in quotes: "yes"'):
        Params(**PARAMS.model_dump() | {"label_map": yaml.safe_load("{yes: spam, no: ham}")})
    label_map = yaml.safe_load('{"yes": spam, 0: ham}')
    assert Params(**PARAMS.model_dump() | {"label_map": label_map}).label_map == {"yes": "spam", "0": "ham"}
