import hashlib
import json

import numpy as np
import pandas as pd
import pytest
from token_files import write_tokens

from llm.dataset import TokenWindows
from llm.errors import UserError
from llm.tokenizer import END_OF_TEXT, end_of_text, train_bpe
from tasks.data.tokens import encode
from tasks.registry.trained_on import rows_in


@pytest.fixture
def files(tmp_path, encoding, monkeypatch):
    """The same texts as one token file and, below `shards`, as several of 100 tokens; and the latter's meta.json."""
    texts = {"train": pd.DataFrame({"text": [f"the cat sat on mat {n} ." for n in range(60)]})}
    for name in ("one", "shards"):
        (tmp_path / name).mkdir()
    write_tokens(encoding, texts, tmp_path / "one")
    monkeypatch.setattr("tasks.data.tokens.SHARD", 200)
    return tmp_path, write_tokens(encoding, texts, tmp_path / "shards")


def test_shards_hold_what_one_file_would_with_tokens_and_sha256_of_each(files):
    folder, meta = files
    one = (folder / "one/train.bin").read_bytes()
    shards = meta["splits"]["train"].pop("shards")
    assert meta == json.loads((folder / "one/meta.json").read_text())
    contents = [(folder / "shards" / shard["file"]).read_bytes() for shard in shards]
    assert b"".join(contents) == one
    assert [len(content) for content in contents[:-1]] == [200] * (len(one) // 200)
    assert [shard["sha256"] for shard in shards] == [hashlib.sha256(content).hexdigest() for content in contents]
    assert [shard["tokens"] for shard in shards] == [len(content) // 2 for content in contents]


def test_shards_give_the_same_batches(files):
    folder, _ = files
    one = TokenWindows(folder / "one", "train", 32)
    shards = TokenWindows(folder / "shards", "train", 32)
    assert len(one) == len(shards) > 5
    assert one.bytes_per_token == shards.bytes_per_token
    rows = np.array([3, 0, len(one) - 1])
    for ours, theirs in zip(one.batch(rows), shards.batch(rows), strict=True):
        assert ours.equal(theirs)
    assert (shards.tokens[-150:] == one.tokens[-150:]).all()
    assert int(shards.tokens[0]) == one.tokens[0]


def test_corrupt_shard_is_named(files):
    folder, meta = files
    shard = folder / "shards" / meta["splits"]["train"]["shards"][1]["file"]
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(UserError, match=r"shards/train\.00002\.bin: 99 tokens, not 100 as meta\.json has it"):
        TokenWindows(folder / "shards", "train", 32)


def test_rows_of_many_tokens_are_whole_documents_from_all_over(files, encoding, monkeypatch):
    from llm.formats.tokenizer_json import save_tokenizer

    folder, _ = files
    save_tokenizer(encoding, folder / "shards/tokenizer.json")
    everything = rows_in(folder / "shards")["text"].tolist()
    assert everything == [f"the cat sat on mat {n} ." for n in range(60)]
    monkeypatch.setattr("tasks.registry.trained_on.SPANS", 4)
    monkeypatch.setattr("tasks.registry.trained_on.SPAN", 50)
    some = rows_in(folder / "shards")["text"].tolist()
    assert 4 < len(some) < 40
    assert [text for text in everything if text in some] == some
    assert some[-1] == everything[-1]


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
