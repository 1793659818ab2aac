import json

import numpy as np
import pandas as pd
import pytest
from token_files import write_tokens

from llm.tokenizer import END_OF_TEXT, end_of_text, make_encoding, train_bpe
from tasks.data.tokens import batches, encode, texts_to_learn

BPE = train_bpe(["the cat's mat, they'll see it is 12 words "] * 9, 300)


@pytest.mark.parametrize("text", [END_OF_TEXT, "<|\0cut|>", f"the{' ' * 10**6}cat", "the\n\n  cat's ½漢"])
def test_encode_gives_the_tokens_of_each_text_and_an_end_after_it(text):
    texts = ["the cat", text, "", "the mat"]
    expected: list[int] = []
    for part in texts:
        expected += [*BPE.encode_ordinary(part), end_of_text(BPE)]
    tokens = encode(BPE, texts)
    assert np.frombuffer(tokens.content, "<u2").tolist() == expected
    size = len("".join(texts).encode())
    assert tokens.counts == {"documents": len(texts), "tokens": len(expected), "bytes": size}
    assert BPE.decode(expected) == "".join(part + END_OF_TEXT for part in texts)


@pytest.mark.parametrize(("end", "dtype"), [(300, "uint16"), (65_600, "uint32")])
def test_tokens_are_written_in_order_of_batches_with_their_counts(tmp_path, monkeypatch, end, dtype):
    monkeypatch.setattr("tasks.data.tokens.BATCH", 40)
    texts = ["the cat sat on the mat", "émigré <|endoftext|>", *(f"the cat {n}" for n in range(20))]
    encoding = make_encoding(BPE._pat_str, BPE._mergeable_ranks, {END_OF_TEXT: end})
    tables = {"train": pd.DataFrame({"text": texts}), "test": pd.DataFrame({"text": ["the end"]})}
    meta = write_tokens(encoding, tables, tmp_path)
    assert json.loads((tmp_path / "meta.json").read_text()) == meta
    assert (meta["dtype"], meta["vocabulary_size"]) == (dtype, end + 1)
    train = np.fromfile(tmp_path / "train.bin", np.dtype(dtype).newbyteorder("<"))
    assert encoding.decode(train.tolist()) == "".join(text + END_OF_TEXT for text in texts)
    counts = {"documents": len(texts), "tokens": len(train), "bytes": len("".join(texts).encode())}
    assert meta["splits"]["train"] == counts
    assert meta["splits"]["validation"] == {"documents": 0, "tokens": 0, "bytes": 0}


@pytest.mark.parametrize("lengths", [[], [1], [5] * 7, [100, 1, 1, 100, 30], [0, 0, 0]])
def test_batches_hold_every_text_once_in_order(lengths):
    assert [position for batch in batches(lengths, 10) for position in batch] == list(range(len(lengths)))


def test_tokenizer_learns_from_a_sample_of_train_alone(monkeypatch):
    rows = pd.DataFrame({"split": ["train", "test"] * 50, "length": 10})
    texts = [f"text {n}" for n in range(100)]
    assert list(texts_to_learn(rows, texts, 1)) == texts[::2]
    monkeypatch.setattr("tasks.data.tokens.LEARNED", 100)
    sample = list(texts_to_learn(rows, texts, 1))
    assert len(sample) == 10
    assert set(sample) < set(texts[::2])
