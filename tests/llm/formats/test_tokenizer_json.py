import json
import pickle

import pytest
import tiktoken
from published import CL100K, RANKS, TEXT, make_partial_encoding, partial_layout, strange_texts
from tokenizers import Tokenizer

from llm.errors import UserError
from llm.formats.tokenizer_json import PublishedEncoding, load_tokenizer, save_tokenizer
from llm.tokenizer import END_OF_TEXT, same_tokens, train_bpe


@pytest.fixture(scope="module")
def encoding():
    return train_bpe(TEXT, 1000)


@pytest.fixture(scope="module")
def partial():
    return make_partial_encoding()


@pytest.mark.parametrize("pattern", ["trained", CL100K])
def test_saved_tokenizer_gives_the_same_ids_here_and_in_hugging_face(encoding, pattern, tmp_path):
    if pattern != "trained":
        special = {END_OF_TEXT: 1000, "<|fim|>": 1005}
        ranks = encoding._mergeable_ranks
        encoding = tiktoken.Encoding("x", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
    path = tmp_path / "tokenizer.json"
    save_tokenizer(encoding, path)
    loaded = load_tokenizer(path)
    theirs = Tokenizer.from_file(str(path))
    assert not isinstance(loaded, PublishedEncoding)
    assert same_tokens(loaded, encoding)
    assert {token: theirs.token_to_id(token) for token in encoding._special_tokens} == encoding._special_tokens
    for text in [*TEXT[:20], *strange_texts(1000)]:
        ids = encoding.encode_ordinary(text)
        assert loaded.encode_ordinary(text) == ids
        assert theirs.encode(text).ids == ids
        assert theirs.decode(ids) == text
    save_tokenizer(loaded, tmp_path / "again.json")
    assert path.read_bytes() == (tmp_path / "again.json").read_bytes()


@pytest.mark.parametrize(
    ("part", "change"), [("vocab", {"a": -1}), ("vocab", {"a": 2**32}), ("vocab", {"a": 98}), ("added_tokens", -1)]
)
def test_load_tokenizer_refuses_corrupt_ids_with_the_file(encoding, part, change, tmp_path):
    path = tmp_path / "tokenizer.json"
    save_tokenizer(encoding, path)
    layout = json.loads(path.read_text())
    if part == "vocab":
        layout["model"]["vocab"] |= change
    else:
        layout["added_tokens"][0]["id"] = change
    path.write_text(json.dumps(layout))
    with pytest.raises(UserError, match=r"tokenizer\.json: not the tokenizer\.json of a byte-level BPE \("):
        load_tokenizer(path)


def test_load_tokenizer_reads_a_changed_file_as_a_published_one(encoding, tmp_path):
    path = tmp_path / "tokenizer.json"
    save_tokenizer(encoding, path)
    layout = json.loads(path.read_text())
    path.write_text(json.dumps(layout | {"normalizer": {"type": "NFC"}}))
    theirs = load_tokenizer(path)
    assert isinstance(theirs, PublishedEncoding)
    assert theirs.encode_ordinary("e\u0301") == encoding.encode_ordinary("é") != encoding.encode_ordinary("e\u0301")


def test_published_encoding_leaves_out_bytes_that_the_vocabulary_lacks(partial):
    assert partial.n_vocab == 12
    assert partial.encode_ordinary("ab ab!") == [10, 8, 10, 9]
    assert partial.encode_ordinary("axb!?! é") == [10, 11, 8]  # what is left of a word is merged
    assert partial.encode_ordinary("é\ud800") == []
    assert partial.encode("xa<|im_end|>b", allowed_special="all") == [1, 0, 2]  # but never beyond a special token
    assert partial.encode_ordinary("<|im_end|>") == [5]  # of whose characters the vocabulary has `e` alone


def test_published_encoding_survives_saving_and_pickling(partial, tmp_path):
    save_tokenizer(partial, tmp_path / "tokenizer.json")
    for copy in (load_tokenizer(tmp_path / "tokenizer.json"), pickle.loads(pickle.dumps(partial))):
        assert same_tokens(copy, partial)
        assert copy.encode_ordinary_batch(["axb!?! é", ""]) == [[10, 11, 8], []]


def test_published_encoding_truncates_and_pads_no_text():
    truncation = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
    padding |= {"pad_type_id": 0, "pad_token": "[PAD]"}
    layout = partial_layout(RANKS, {}, truncation=truncation, padding=padding)
    assert PublishedEncoding(layout).encode_ordinary("abababab") == [10] * 4


BPE = {"type": "BPE", "vocab": RANKS, "merges": [["a", "b"]]}
NOT_ITS_FILE = "not the tokenizer.json of a byte-level BPE"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", NOT_ITS_FILE),
        ("[]", NOT_ITS_FILE),
        ("[" * 100_000, NOT_ITS_FILE),
        (json.dumps({"added_tokens": [], "pre_tokenizer": None}), NOT_ITS_FILE),
        (partial_layout(RANKS, {}, model=None), NOT_ITS_FILE),
        (partial_layout(RANKS, {}, model={"type": "WordLevel"}), NOT_ITS_FILE),
        (partial_layout(RANKS, {}, model=BPE | {"byte_fallback": "x"}), NOT_ITS_FILE),
        (partial_layout(RANKS, {}, model=BPE | {"merges": [["a", "b", "c"]]}), NOT_ITS_FILE),
        (partial_layout(RANKS, {}, model=BPE | {"merges": [["a", "q"]]}), "`q` out of vocabulary"),
        (partial_layout(RANKS, {}, model=BPE | {"vocab": RANKS | {"▁a": 0}}), "can't encode character"),
        (partial_layout(RANKS, {}, model=BPE | {"vocab": RANKS | {"q": 1}}), "two of its tokens have one id"),
        (partial_layout(RANKS, {}, model=BPE | {"dropout": 0.5}), "merges at random, dropout 0.5"),
        (partial_layout(RANKS, {}, normalizer={"type": "Lowercase"}), "it makes 'the cat' of 'The cat'"),
        (partial_layout(RANKS, {"ab": 10}, model=BPE), "a text that holds 'ab' would get special tokens"),
    ],
    ids=range(14),
)
def test_load_tokenizer_refuses_a_corrupt_file_and_one_that_changes_text(tmp_path, content, reason):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(UserError, match=rf"^{path}: not .*{reason.removeprefix('not ')}"):
        load_tokenizer(path)
