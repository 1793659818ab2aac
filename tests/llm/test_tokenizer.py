import json
import random
from pydoc_data.topics import topics

import pytest
import tiktoken
from tokenizers import Tokenizer

from llm.tokenizer import END_OF_TEXT, load_tokenizer, named_encoding, save_tokenizer, train_bpe

TEXT = list(topics.values())
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
    r"|\s+(?!\S)|\s"
)


@pytest.fixture(scope="module")
def encoding():
    return train_bpe(TEXT, 1000)


def strange_texts(count):
    pool = "ab  c\n\t\r'sTLl12345678 é漢字🙂\u0085\u00a0\u2028\u3000.,!?--"
    draw = random.Random(0)
    return ["".join(draw.choices(pool, k=draw.randint(0, 60))) for _ in range(count)]


def test_the_vocabulary_counts_bytes_merges_and_the_end_token(encoding):
    assert encoding.n_vocab == 1000
    assert encoding.eot_token == 999
    assert sorted(encoding._mergeable_ranks.values()) == list(range(999))
    assert {bytes([byte]) for byte in range(256)} <= set(encoding._mergeable_ranks)


def test_training_learns_frequent_words_and_is_deterministic(encoding):
    assert encoding.encode_ordinary(" the") == [encoding._mergeable_ranks[b" the"]]
    assert sum(map(len, TEXT)) / sum(map(len, encoding.encode_ordinary_batch(TEXT))) > 2.5
    assert train_bpe(TEXT, 1000)._mergeable_ranks == encoding._mergeable_ranks


def test_few_texts_give_a_smaller_vocabulary():
    encoding = train_bpe(["aa"], 1000)
    assert encoding.n_vocab == 258
    assert encoding.encode_ordinary("aa") == [256]


def test_a_vocabulary_without_room_for_the_bytes_is_refused():
    with pytest.raises(ValueError, match="vocabulary_size 256 has no room"):
        train_bpe(TEXT, 256)


def test_any_text_comes_back(encoding):
    for text in [*TEXT[:20], *strange_texts(200)]:
        assert encoding.decode(encoding.encode_ordinary(text)) == text


def test_bytes_that_are_no_utf8_decode_to_replacement_characters(encoding):
    tokens = [encoding._mergeable_ranks[bytes([byte])] for byte in (0xC3, 0x28, 0xFF)]
    assert encoding.decode_bytes(tokens) == b"\xc3(\xff"
    assert encoding.decode(tokens) == "\ufffd(\ufffd"


def test_a_typed_end_token_stays_text(encoding):
    tokens = encoding.encode_ordinary(END_OF_TEXT)
    assert encoding.eot_token not in tokens
    assert encoding.decode(tokens) == END_OF_TEXT


@pytest.mark.parametrize("pattern", ["trained", CL100K])
def test_a_saved_tokenizer_gives_the_same_ids_here_and_in_hugging_face(encoding, pattern, tmp_path):
    if pattern != "trained":
        special = {END_OF_TEXT: 1000, "<|fim|>": 1005}
        encoding = tiktoken.Encoding(
            "x", pat_str=pattern, mergeable_ranks=encoding._mergeable_ranks, special_tokens=special
        )
    path = tmp_path / "tokenizer.json"
    save_tokenizer(encoding, path)
    loaded, other = load_tokenizer(path), Tokenizer.from_file(str(path))
    assert loaded._pat_str == encoding._pat_str
    assert loaded._mergeable_ranks == encoding._mergeable_ranks
    assert loaded._special_tokens == encoding._special_tokens
    assert {token: other.token_to_id(token) for token in encoding._special_tokens} == encoding._special_tokens
    for text in [*TEXT[:100], *strange_texts(2000)]:
        ids = encoding.encode_ordinary(text)
        assert loaded.encode_ordinary(text) == ids
        assert other.encode(text).ids == ids
        assert other.decode(ids) == text


def test_saving_twice_gives_the_same_bytes(encoding, tmp_path):
    save_tokenizer(encoding, tmp_path / "a.json")
    save_tokenizer(load_tokenizer(tmp_path / "a.json"), tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"added_tokens": [], "pre_tokenizer": None})])
def test_a_file_of_another_kind_is_named(content, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"tokenizer\.json: not the tokenizer\.json of a byte-level BPE"):
        load_tokenizer(path)


def test_an_unknown_encoding_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"^'gpt3' is no tiktoken encoding; known are cl100k_base, gpt2"):
        named_encoding("gpt3")


def test_an_encoding_that_cannot_be_downloaded_says_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.delitem(tiktoken.registry.ENCODINGS, "p50k_base", raising=False)
    with pytest.raises(RuntimeError, match=r"^tiktoken can't download p50k_base here .*TIKTOKEN_CACHE_DIR"):
        named_encoding("p50k_base")
