import json

import great_expectations as gx
import pandas as pd
from form_files import put

from tasks.data import emails
from tasks.data.findings import Findings


def test_emails_of_messages_and_tables_are_one_table_in_the_order_of_paths(tmp_path):
    package = {"id": 1, "group": "spam-2", "checksum": {}, "text": "From: a@b.org\nSubject: Hello\n\nBuy this now"}
    put(
        tmp_path,
        {
            "mine.csv": 'subject,label,body\n"A, b",spam,"two\nlines"\nc,ham,\n',
            "more.jsonl": '\n{"label": "ham", "subject": "s", "body": "<html>b</html>"}\n',
            "source/data/spam-2/1.json": json.dumps(package),
            ".gitignore": "*",
        },
    )
    params = emails.Params()
    table = emails.read(tmp_path, params, Findings())
    assert list(table) == emails.COLUMNS
    assert table.to_numpy().tolist() == [
        ["mine.csv#2", "mine.csv", "A, b", "two\nlines", "spam", "a b"],
        ["mine.csv#3", "mine.csv", "c", "", "ham", "c\n"],
        ["more.jsonl#2", "more.jsonl", "s", "b", "ham", "s\nb"],
        ["source/data/spam-2/1.json", "source/data/spam-2", "Hello", "Buy this now", "spam", "Hello\nBuy this now"],
    ]
    batch = gx.get_context(mode="ephemeral").data_sources.pandas_default.read_dataframe(table)
    assert batch.validate(gx.ExpectationSuite(name="emails", expectations=emails.expectations(params))).success


def test_thread_is_one_group_and_a_subject_of_one_word_makes_none():
    thread_of = ["Bug in make", "Re: bug in MAKE!", "[list] Re: Bug in make", "RE[2]: Fwd: Bug in make"]
    table = pd.DataFrame({"subject": [*thread_of, "[list] Hello", "Re: hello", "", "In re: a bug"], "body": "x"})
    groups = emails.thread(table).tolist()
    assert groups == [*["bug in make"] * 4, "[list] Hello\nx", "Re: hello\nx", "\nx", "in re a bug"]
