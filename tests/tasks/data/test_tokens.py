import json

import numpy as np
import pandas as pd
import pytest
from token_files import write_tokens

from llm.tokenizer import END_OF_TEXT, end_of_text, train_bpe
from tasks.data.tokens import batches, encode, texts_to_learn

BPE = train_bpe(["the cat's mat, they'll see it is 12 words "] * 9, 300)


@pytest.mark.parametrize("text", [END_OF_TEXT, "<|\0cut|>", f"the{' ' * 10**6}cat", "the\n\n  cat's ½漢"])
def test_encode_gives_the_tokens_of_each_text_and_an_end_after_it(text: str) -> None:
    texts = ["the cat", text, "", "the mat"]
    expected: list[int] = []
    for part in texts:
        expected += [*BPE.encode_ordinary(part), end_of_text(BPE)]
    tokens = encode(BPE, texts)
    assert np.frombuffer(tokens.content, "<u2").tolist() == expected
    size = len("".join(texts).encode())
    assert tokens.counts == {"documents": len(texts), "tokens": len(expected), "bytes": size}
    assert BPE.decode(expected) == "".join(part + END_OF_TEXT for part in texts)


@pytest.mark.parametrize(("more_tokens", "dtype", "code"), [(0, "uint16", "<u2"), (65_536, "uint32", "<u4")])
def test_tokens_are_written_in_order_of_batches_with_their_counts(tmp_path, monkeypatch, more_tokens, dtype, code):
    monkeypatch.setattr("tasks.data.tokens.BATCH", 40)
    texts = ["the cat sat on the mat", "émigré <|endoftext|>", *(f"the cat {n}" for n in range(20)), "the end"]
    encoding = train_bpe(texts, 270)
    end = encoding.eot_token + more_tokens
    encoding = type(encoding)(
        "x",
        pat_str=encoding._pat_str,
        mergeable_ranks=encoding._mergeable_ranks,
        special_tokens={END_OF_TEXT: end},
    )
    tables = {"train": pd.DataFrame({"text": texts[:-1]}), "test": pd.DataFrame({"text": texts[-1:]})}
    meta = write_tokens(encoding, tables, tmp_path)
    assert json.loads((tmp_path / "meta.json").read_text()) == meta
    assert (meta["dtype"], meta["vocabulary_size"]) == (dtype, end + 1)
    train = np.fromfile(tmp_path / "train.bin", code)
    documents = [encoding.decode(part.tolist()) for part in np.split(train, np.flatnonzero(train == end) + 1)[:-1]]
    assert documents == [text + END_OF_TEXT for text in texts[:-1]]
    size = sum(len(text.encode()) for text in texts[:-1])
    assert meta["splits"]["train"] == {"documents": len(texts) - 1, "tokens": len(train), "bytes": size}
    assert meta["splits"]["validation"] == {"documents": 0, "tokens": 0, "bytes": 0}


@pytest.mark.parametrize("lengths", [[], [1], [5] * 7, [100, 1, 1, 100, 30], [0, 0, 0]])
def test_batches_hold_every_text_once_in_order(lengths: list[int]) -> None:
    assert [position for batch in batches(lengths, 10) for position in batch] == list(range(len(lengths)))


def test_tokenizer_learns_from_a_sample_of_train_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pd.DataFrame({"split": ["train", "test"] * 50, "length": 10})
    texts = [f"text {n}" for n in range(100)]
    assert list(texts_to_learn(rows, texts, 1)) == texts[::2]
    monkeypatch.setattr("tasks.data.tokens.LEARNED", 100)
    sample = list(texts_to_learn(rows, texts, 1))
    assert len(sample) == 10
    assert set(sample) < set(texts[::2])
