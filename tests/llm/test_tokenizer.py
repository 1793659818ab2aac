import random
from pydoc_data.topics import topics

import pytest
import tiktoken
from published import CL100K, make_partial_encoding, strange_texts
from tiktoken_ext.openai_public import r50k_pat_str

from llm.errors import UserError
from llm.tokenizer import (
    END_OF_TEXT,
    decode,
    end_of_text,
    letterless_tokens,
    make_encoding,
    named_encoding,
    same_tokens,
    stop_tokens,
    token_bytes,
    train_bpe,
)

TEXT = list(topics.values())
PATTERNS = (r50k_pat_str, CL100K, r"\p{N}|'s| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")  # GPT-2's, GPT-4's, SmolLM2's


@pytest.fixture(scope="module")
def encoding():
    return train_bpe(TEXT, 1000)


@pytest.fixture(scope="module")
def partial():
    return make_partial_encoding()


def test_training_learns_frequent_words_and_is_deterministic(encoding):
    assert (encoding.n_vocab, encoding.eot_token) == (1000, 999)
    ranks = encoding._mergeable_ranks
    assert sorted(ranks.values()) == list(range(999))
    assert {bytes([byte]) for byte in range(256)} <= ranks.keys()
    assert encoding.encode_ordinary(" the") == [ranks[b" the"]]
    assert sum(map(len, TEXT)) / sum(map(len, encoding.encode_ordinary_batch(TEXT))) > 2.5
    assert train_bpe(TEXT, 1000)._mergeable_ranks == ranks


@pytest.mark.timeout(200)  # of a million, 1 s; were all counted together, half an hour
def test_training_counts_a_long_word_in_parts_and_needs_no_quadratic_time():
    ranks = train_bpe(["aa" + " " * 10**6], 300)._mergeable_ranks
    assert {b"aa", b" " * 1_024} < set(ranks)


def test_training_on_few_texts_gives_a_smaller_vocabulary_and_none_without_room_for_the_bytes():
    encoding = train_bpe(["aa"], 1000)
    assert encoding.n_vocab == 258
    assert encoding.encode_ordinary("aa") == [256]
    with pytest.raises(ValueError, match="vocabulary_size 256 has no room"):
        train_bpe(["aa"], 256)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_text_cut_outside_of_tiktoken_has_its_tokens(encoding, pattern, monkeypatch):
    ranks = encoding._mergeable_ranks
    special = encoding._special_tokens
    ours = make_encoding(pattern, ranks, special)
    theirs = tiktoken.Encoding("x", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
    texts = [*TEXT[:20], *strange_texts(500), "\ud83d\ude42  \ud800  ", "   " + END_OF_TEXT]
    monkeypatch.setattr("llm.tokenizer.LONGEST_RUN", 1)
    assert ours.encode_ordinary_batch(texts) == theirs.encode_ordinary_batch(texts)


@pytest.mark.parametrize(("pattern", "space"), [(PATTERNS[0], "\n"), (PATTERNS[1], " ")])
def test_text_with_a_million_spaces_is_encoded_and_fails_no_other_text(encoding, pattern, space):
    ours = make_encoding(pattern, encoding._mergeable_ranks, encoding._special_tokens)
    texts = ["the cat", f"the{space * 10**6}cat"]
    cat, long = ours.encode_ordinary_batch(texts)
    assert cat == ours.encode_ordinary("the cat")
    assert ours.decode(long) == texts[1]
    short = ours.encode_ordinary(f"the{space * 1_024}cat")
    assert (long[:30], long[-30:]) == (short[:30], short[-30:])


def test_named_encoding_lists_the_known_names():
    with pytest.raises(ValueError, match=r"^'gpt3' is no tiktoken encoding; known are cl100k_base, gpt2"):
        named_encoding("gpt3")


def test_named_encoding_without_network_names_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.delitem(tiktoken.registry.ENCODINGS, "p50k_base", raising=False)
    with pytest.raises(UserError, match=r"^tiktoken can't download p50k_base here .*TIKTOKEN_CACHE_DIR"):
        named_encoding("p50k_base")


@pytest.mark.parametrize(
    ("names", "stop", "end"),
    [
        (["<|endoftext|>", "<|im_start|>", "<|im_end|>"], {256, 258}, 256),
        (["<s>", "</s>"], {257}, 257),
        (["<|begin_of_text|>", "<|eot_id|>", "<|end_of_text|>"], {257, 258}, 258),
        (["<|im_start|>", "<|im_end|>"], {257}, 257),
        (["<s>"], set(), None),
    ],
)
def test_special_tokens_end_a_text(names, stop, end):
    special = {name: 256 + number for number, name in enumerate(names)}
    encoding = make_encoding(r"\w+|\W+", {bytes([byte]): byte for byte in range(256)}, special)
    assert stop_tokens(encoding) == stop
    if end is not None:
        assert end_of_text(encoding) == end
    else:
        with pytest.raises(ValueError, match=r"^no special token ends a text: <s>"):
            end_of_text(encoding)


def test_token_bytes_are_empty_for_ids_without_a_token(encoding, partial):
    assert token_bytes(encoding, encoding.encode_single_token("the")) == b"the"
    assert token_bytes(encoding, encoding.eot_token) == b"<|endoftext|>"
    contents = {0: b"<|im_end|>", 1: b"a", 8: b" ", 10: b"ab", 11: b"!!", 12: b""}
    assert {token: token_bytes(partial, token) for token in contents} == contents


def test_letterless_tokens_are_digits_marks_spaces_and_parts_of_characters(encoding, partial):
    letterless = letterless_tokens(encoding)
    assert set(encoding.encode_ordinary("7 1900, \n!?")) <= letterless
    assert not letterless & {encoding.encode_single_token(word) for word in ("the", "a", " c")}
    assert encoding.encode_single_token("é".encode()[:1]) in letterless
    assert letterless_tokens(partial) == {8, 9, 11}  # a space, "!" and "!!"


def test_decode_gives_the_text_of_tiktoken_and_skips_ids_without_a_token(encoding, partial):
    draw = random.Random(0)
    for _ in range(200):  # any tokens: half characters, and special ones, too
        tokens = draw.choices(range(encoding.n_vocab), k=draw.randint(0, 30))
        assert decode(encoding, tokens) == encoding.decode(tokens)
    assert decode(encoding, [*encoding.encode_ordinary("the"), 1000, 2**31, *encoding.encode_ordinary(" é")]) == "the é"
    assert decode(partial, [10, 12, 9]) == "ab!"


def test_same_tokens_compares_tokens_and_not_sizes():
    first = train_bpe(["abab " * 9], 260)
    assert same_tokens(first, train_bpe(["abab " * 9], 260))
    second = train_bpe(["cdcd " * 9], 260)
    assert first.n_vocab == second.n_vocab
    assert not same_tokens(first, second)
