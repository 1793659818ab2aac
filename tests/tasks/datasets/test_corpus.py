import json

import numpy as np
import pandas as pd
import pytest
from token_files import write_tokens

from llm.errors import UserError
from llm.tokenizer import train_bpe
from tasks.data.shingles import text_hashes
from tasks.data.splits import draw_splits
from tasks.datasets.corpus import Params, choose_encoding, read_corpus

PARAMS = Params(seed=1, validation=0.02, test=0.02, near_duplicate=0.8)


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def chat(messages):
    return {"messages": [[{"sender": sender, "text": text} for sender, text in messages]]}


def test_corpus_has_documents_of_every_form_in_the_order_of_paths(tmp_path):
    messages = [("x", "Hi\nthere"), ("y", "Hello"), ("y", ""), ("x", "Bye")]
    chats = {"one": chat(messages), "two": chat([("x", "Anyone?")])}
    write(tmp_path, "talk/dataset.json", json.dumps(chats))
    write(tmp_path, "notes/rows.jsonl", '{"text": "first"}\n\n{"text": "third", "more": 1}\n')
    write(tmp_path, "books/part/a.txt", "\ufeffOne.\r\n\r\n \r\n  Two.\n")
    write(tmp_path, "books/.hidden", b"\xff")
    assert read_corpus(tmp_path, PARAMS).to_dict("split")["data"] == [
        ["books/part/a.txt", "books", "One.\n\n  Two."],
        ["notes/rows.jsonl#1", "notes", "first"],
        ["notes/rows.jsonl#3", "notes", "third"],
        ["talk/dataset.json#one", "talk", "A: Hi there\nB: Hello\nA: Bye"],
    ]


def test_corpus_unicode_is_mended_and_composed(tmp_path):
    write(tmp_path, "a/a.txt", "schÃ¶n, cafe\u0301")
    assert read_corpus(tmp_path, PARAMS)["text"].item() == "schön, café"


def test_cut_of_a_long_text_is_at_blank_lines_into_even_pieces(tmp_path):
    paragraphs = [f"Paragraph {n}. " + "word " * 40 + "end\nof it" for n in range(600)]
    write(tmp_path, "a/book.txt", "\n\n".join(paragraphs))
    table = read_corpus(tmp_path, PARAMS)
    assert table["id"].tolist() == [f"a/book.txt#{n}" for n in range(1, 15)]
    assert table["text"].str.len().between(9_400, 9_800).all()
    assert "\n\n".join(table["text"]) == "\n\n".join(paragraphs)


@pytest.mark.parametrize("mark", ["\n", " "])
def test_cut_without_blank_lines_is_at_line_ends_and_without_lines_at_spaces(tmp_path, mark):
    words = [f"Word{n}" for n in range(12_000)]
    write(tmp_path, "a/book.txt", mark.join(words))
    table = read_corpus(tmp_path, PARAMS)
    assert len(table) == 11
    assert table["text"].str.len().between(9_850, 9_950).all()
    assert mark.join(table["text"]) == mark.join(words)


def test_cut_leaves_a_text_without_spaces_whole_for_the_expectations(tmp_path):
    write(tmp_path, "a/blob.txt", "x" * 30_000)
    assert read_corpus(tmp_path, PARAMS)[["id", "text"]].to_numpy().tolist() == [["a/blob.txt", "x" * 30_000]]


def test_cut_of_rows_is_that_of_files_and_depends_on_no_other_row(tmp_path):
    rows: list[dict[str, str]] = []
    for number, length in enumerate([2_500] * 120 + [20_000]):
        rows.append({"text": " ".join(f"r{number}w{n}" for n in range(length))})
    write(tmp_path, "a/rows.jsonl", "\n".join(map(json.dumps, rows)))
    write(tmp_path, "b/rows.jsonl", json.dumps(rows[0]))
    table = read_corpus(tmp_path, PARAMS)
    assert table["id"].tolist() == [
        *(f"a/rows.jsonl#{n}" for n in range(1, 121)),
        *(f"a/rows.jsonl#121#{n}" for n in range(1, 22)),
        "b/rows.jsonl#1",
    ]
    assert table["text"][120:141].str.len().between(9_900, 10_000).all()
    (tmp_path / "b/rows.jsonl").write_text("\n".join(map(json.dumps, rows[:100])))
    assert read_corpus(tmp_path, PARAMS)["text"][:141].equals(table["text"][:141])


def test_cut_of_a_small_corpus_gives_ten_pieces_and_a_note_stays_whole(tmp_path):
    write(tmp_path, "a/book.txt", "\n\n".join(f"{n} " * 30 + "so many times." for n in range(1_000, 1_130)))  # 20 kB
    write(tmp_path / "inbox", "note.txt", "A note of one's own.\n\nIn two paragraphs.")
    assert len(read_corpus(tmp_path / "inbox", PARAMS)) == 1
    (tmp_path / "inbox/note.txt").unlink()
    table = read_corpus(tmp_path, PARAMS)
    assert len(table) == 10
    assert table["text"].str.len().between(1_900, 2_400).all()
    assert count_splits(table) == {"train": 8, "validation": 1, "test": 1}


def count_splits(table: pd.DataFrame) -> dict[str, int]:
    """The rows of each split by the default parameters."""
    splits = draw_splits(text_hashes(table["text"]), PARAMS, train_only=np.zeros(len(table), bool))
    return pd.Series(splits).value_counts().to_dict()


@pytest.mark.parametrize("characters", [100_000, 500_000])
def test_corpus_of_one_book_has_all_splits(tmp_path, characters):
    words = [f"w{n}" for n in range(2_060)]
    paragraphs = [" ".join(words[start : start + 60]) for start in range(2_000)]
    write(tmp_path, "a/book.txt", "\n\n".join(paragraphs)[:characters])
    table = read_corpus(tmp_path, PARAMS)
    counts = count_splits(table)
    assert len(table) == pytest.approx(characters / 10_000, rel=0.05)
    assert 1 <= counts["validation"] <= 5
    assert 1 <= counts["test"] <= 5


def test_corpus_of_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"holds no files; run `threestage fetch"):
        read_corpus(tmp_path, PARAMS)


def test_tokenizer_bpe_is_trained_on_the_texts_and_an_unknown_name_is_refused():
    params = PARAMS.model_copy(update={"vocabulary_size": 270})
    texts = ["the cat sat on the mat and the dog ate the hat"] * 9
    assert choose_encoding(params, texts)._mergeable_ranks == train_bpe(texts, 270)._mergeable_ranks
    with pytest.raises(UserError, match=r"^'gpt3' is no tiktoken encoding; known are .*gpt2"):
        choose_encoding(params.model_copy(update={"tokenizer": "gpt3"}), texts)


@pytest.mark.parametrize(("more_tokens", "dtype", "code"), [(0, "uint16", "<u2"), (65_536, "uint32", "<u4")])
def test_tokens_are_written_in_order_with_an_end_after_each_document(tmp_path, more_tokens, dtype, code):
    texts = ["the cat sat on the mat", "émigré <|endoftext|>", "the end"]
    encoding = train_bpe(texts, 270)
    end = encoding.eot_token + more_tokens
    encoding._special_tokens["<|endoftext|>"] = end
    encoding = type(encoding)(
        "x",
        pat_str=encoding._pat_str,
        mergeable_ranks=encoding._mergeable_ranks,
        special_tokens=encoding._special_tokens,
    )
    tables = {"train": pd.DataFrame({"text": texts[:2]}), "test": pd.DataFrame({"text": texts[2:]})}
    meta = write_tokens(encoding, tables, tmp_path)
    assert json.loads((tmp_path / "meta.json").read_text()) == meta
    train = np.fromfile(tmp_path / "train.bin", code).tolist()
    test = np.fromfile(tmp_path / "test.bin", code).tolist()
    assert encoding.decode(train[: train.index(end)]) == texts[0]
    assert encoding.decode(test[:-1]) == texts[2]
    assert train.count(end) == 2
    assert train[-1] == test[-1] == end
    assert meta == {
        "dtype": dtype,
        "vocabulary_size": end + 1,
        "splits": {
            "train": {"documents": 2, "tokens": len(train), "bytes": sum(len(text.encode()) for text in texts[:2])},
            "validation": {"documents": 0, "tokens": 0, "bytes": 0},
            "test": {"documents": 1, "tokens": len(test), "bytes": 7},
        },
    }
