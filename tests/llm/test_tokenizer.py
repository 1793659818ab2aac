import json
import pickle
import random
from pydoc_data.topics import topics

import pytest
import tiktoken
from tiktoken_ext.openai_public import r50k_pat_str
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from llm.errors import UserError
from llm.tokenizer import (
    END_OF_TEXT,
    PublishedEncoding,
    decode,
    end_of_text,
    letterless_tokens,
    load_tokenizer,
    make_encoding,
    named_encoding,
    same_tokens,
    save_tokenizer,
    stop_tokens,
    token_bytes,
    train_bpe,
)

TEXT = list(topics.values())
PARTS = ("pat_str", "mergeable_ranks", "special_tokens")
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


@pytest.mark.timeout(200)  # of a million, 1 s; were all counted together, half an hour
def test_a_long_word_is_counted_in_parts_and_takes_no_time_of_its_square():
    ranks = train_bpe(["aa" + " " * 10**6], 300)._mergeable_ranks
    assert {b"aa", b" " * 1_024} < set(ranks)


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


PATTERNS = (r50k_pat_str, CL100K, r"\p{N}|'s| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")  # GPT-2's, GPT-4's, SmolLM2's


@pytest.mark.parametrize("pattern", PATTERNS)
def test_texts_that_are_cut_outside_of_tiktoken_have_its_tokens(encoding, pattern, monkeypatch):
    made = pattern, encoding._mergeable_ranks, encoding._special_tokens
    ours, theirs = make_encoding(*made), tiktoken.Encoding("x", **dict(zip(PARTS, made, strict=True)))
    texts = [*TEXT[:20], *strange_texts(500), "\ud83d\ude42  \ud800  ", "   " + END_OF_TEXT]
    monkeypatch.setattr("llm.tokenizer.LONGEST_RUN", 1)
    assert ours.encode_ordinary_batch(texts) == theirs.encode_ordinary_batch(texts)


@pytest.mark.parametrize(("pattern", "space"), [(PATTERNS[0], "\n"), (PATTERNS[1], " ")])
def test_a_million_spaces_are_encoded_and_take_no_other_text_along(encoding, pattern, space):
    ours = make_encoding(pattern, encoding._mergeable_ranks, encoding._special_tokens)
    texts = ["the cat", f"the{space * 10**6}cat", space * 10**6]
    found = ours.encode_ordinary_batch(texts)
    assert found[0] == ours.encode_ordinary("the cat")
    assert list(map(ours.decode, found)) == texts
    short = ours.encode_ordinary(texts[1].replace(space * 10**6, space * 1_024))
    assert (found[1][:30], found[1][-30:]) == (short[:30], short[-30:])


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
    with pytest.raises(UserError, match=r"^tiktoken can't download p50k_base here .*TIKTOKEN_CACHE_DIR"):
        named_encoding("p50k_base")


def test_load_tokenizer_reads_a_changed_file_as_a_published_one(encoding, tmp_path):
    path = tmp_path / "tokenizer.json"
    save_tokenizer(encoding, path)
    layout = json.loads(path.read_text())
    path.write_text(json.dumps(layout | {"normalizer": {"type": "NFC"}}))
    theirs = load_tokenizer(path)
    assert isinstance(theirs, PublishedEncoding)
    assert theirs.encode_ordinary("e\u0301") == encoding.encode_ordinary("é") != encoding.encode_ordinary("e\u0301")
    layout["model"]["merges"].pop()
    path.write_text(json.dumps(layout))
    assert isinstance(load_tokenizer(path), PublishedEncoding)


@pytest.mark.parametrize("index", [-1, 2**32])
@pytest.mark.parametrize("path", [["added_tokens", 0, "id"], ["model", "vocab", "a"]])
def test_an_id_that_no_token_can_have_is_refused_with_the_file(encoding, path, index, tmp_path):
    file = tmp_path / "tokenizer.json"
    save_tokenizer(encoding, file)
    changed = part = json.loads(file.read_text())
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = index
    file.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=r"tokenizer\.json: not the tokenizer\.json of a byte-level BPE \("):
        load_tokenizer(file)


def test_two_tokens_of_one_id_are_refused_with_the_file(encoding, tmp_path):
    file = tmp_path / "tokenizer.json"
    save_tokenizer(encoding, file)
    layout = json.loads(file.read_text())
    layout["model"]["vocab"]["b"] = layout["model"]["vocab"]["a"]
    file.write_text(json.dumps(layout))
    with pytest.raises(ValueError, match=r"tokenizer\.json: not .* \(ValueError: two of its tokens have one id\)"):
        load_tokenizer(file)


def layout_of(ranks, special, added=(), **parts):
    """A tokenizer.json whose words are those of letters and those of other characters."""
    letters = json.loads(published_layout())
    tokens = [{"id": index, "content": token, "special": True, **FLAGS} for token, index in special.items()]
    tokens += [{"id": ranks[token], "content": token, "special": False, **FLAGS} for token in added]
    merges = [(token[:1], token[1:]) for token in ranks if len(token) == 2]
    model = letters["model"] | {"vocab": ranks | special, "merges": merges}
    return json.dumps(letters | {"added_tokens": tokens, "model": model} | parts)


FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
WORDS = {"continuing_subword_prefix": "##", "max_input_chars_per_word": 9}
RANKS = {token: index for index, token in enumerate("abThectĠ!", 1)} | {"ab": 10, "!!": 11}


def published_layout():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r" ?\w+| ?\W+"), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    return tokenizer.to_str()


@pytest.fixture
def partial():
    """A published vocabulary of nine bytes, two merges and a special token in front."""
    return PublishedEncoding(layout_of(RANKS, {"<|im_end|>": 0}))


def test_bytes_that_a_vocabulary_lacks_are_left_out(partial):
    assert partial.n_vocab == 12
    assert partial.encode_ordinary("ab ab!") == [10, 8, 10, 9]
    assert partial.encode_ordinary("axb!?! é") == [10, 11, 8]  # what is left of a word is merged
    assert partial.encode_ordinary("é\ud800") == []
    assert partial.encode("xa<|im_end|>b", allowed_special="all") == [1, 0, 2]  # but never beyond a special token
    assert partial.encode_ordinary("<|im_end|>") == [5]  # of whose characters the vocabulary has `e` alone
    with pytest.raises(TypeError, match="allowed_special"):
        partial.encode("<|im_end|>")


def test_a_published_vocabulary_survives_saving_and_pickling(partial, tmp_path):
    save_tokenizer(partial, tmp_path / "tokenizer.json")
    for again in (load_tokenizer(tmp_path / "tokenizer.json"), pickle.loads(pickle.dumps(partial))):
        assert isinstance(again, PublishedEncoding)
        assert same_tokens(again, partial)
        assert (again.n_vocab, again._special_tokens) == (12, {"<|im_end|>": 0})
        assert again.encode_ordinary_batch(["axb!?! é", ""]) == [[10, 11, 8], []]


def test_added_tokens_that_are_not_special_are_found_in_text():
    tool = {"<tool>": 12}
    encoding = PublishedEncoding(layout_of(RANKS | tool, {"<|im_end|>": 0}, added=tool))
    assert encoding.encode_ordinary("ab<tool>!<|im_end|>") == [10, 12, 9, 5]
    assert decode(encoding, [10, 12, 9]) == "ab<tool>!"
    assert encoding._special_tokens == {"<|im_end|>": 0}


def test_a_published_file_cuts_and_pads_no_text():
    cut = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    pad = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0}
    layout = layout_of(RANKS, {}, truncation=cut, padding=pad | {"pad_token": "[PAD]"})
    assert PublishedEncoding(layout).encode_ordinary("abababab") == [10] * 4


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "it makes 'the cat' of 'The cat'"),
        (
            {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}},
            "it makes ' The cat'",
        ),
        ({"model": {"type": "WordPiece", "vocab": {"The": 0, "cat": 1}, "unk_token": "The", **WORDS}}, "it makes 'The"),
        ({"model": {"type": "BPE", "vocab": {"▁a": 0}, "merges": []}}, "codec can't encode"),
        (
            {"model": {"type": "BPE", "vocab": RANKS, "merges": [], "dropout": 0.5}},
            "merges at random, dropout 0.5",
        ),
        ({"model": {"type": "BPE", "vocab": RANKS | {"q": 1}, "merges": []}}, "two of its tokens have one id"),
        ({"model": {"type": "BPE", "vocab": RANKS, "merges": [["a", "q"]]}}, "`q` out of vocabulary"),
        ({"model": {"type": "WordLevel"}}, "."),
    ],
)
def test_a_published_tokenizer_that_does_not_keep_text_is_refused(change, reason):
    with pytest.raises(ValueError, match=reason):
        PublishedEncoding(layout_of(RANKS, {}, **change))


def test_a_published_special_token_that_text_would_get_is_refused():
    with pytest.raises(ValueError, match="a text that holds 'ab' would get special tokens"):
        PublishedEncoding(
            layout_of(
                {token: index for token, index in RANKS.items() if token != "ab"},
                {"ab": 10},
                **{
                    "model": {"type": "BPE", "vocab": RANKS, "merges": [["a", "b"]]},
                },
            )
        )


@pytest.mark.parametrize(
    ("names", "stop", "end"),
    [
        (["<|endoftext|>", "<|im_start|>", "<|im_end|>"], {256, 258}, 256),
        (["<s>", "</s>"], {257}, 257),
        (["<|begin_of_text|>", "<|eot_id|>", "<|end_of_text|>"], {257, 258}, 258),
        (["<|im_start|>", "<|im_end|>"], {257}, 257),
    ],
)
def test_special_tokens_say_where_a_text_ends(names, stop, end):
    encoding = with_special(names)
    assert stop_tokens(encoding) == stop
    assert end_of_text(encoding) == end


def test_an_encoding_without_an_end_says_what_it_has():
    assert stop_tokens(with_special(["<s>"])) == frozenset()
    with pytest.raises(ValueError, match=r"^no special token ends a text: <s>, where one of <\|endoftext\|>, </s>"):
        end_of_text(with_special(["<s>"]))


def with_special(names):
    special = {name: 256 + n for n, name in enumerate(names)}
    return make_encoding(r"\w+|\W+", {bytes([byte]): byte for byte in range(256)}, special)


def test_every_id_has_its_bytes(encoding, partial):
    assert token_bytes(encoding, encoding.encode_single_token("the")) == b"the"
    assert token_bytes(encoding, encoding.eot_token) == b"<|endoftext|>"
    assert [token_bytes(partial, token) for token in (0, 1, 8, 10, 11, 12)] == [
        b"<|im_end|>",
        b"a",
        b" ",
        b"ab",
        b"!!",
        b"",
    ]


def test_letterless_tokens_are_those_of_digits_marks_spaces_and_parts_of_characters(encoding, partial):
    letterless = letterless_tokens(encoding)
    assert set(encoding.encode_ordinary("7 1900, \n!?")) <= letterless
    assert not letterless & {encoding.encode_single_token(word) for word in ("the", "a", " c")}
    assert encoding.encode_single_token("é".encode()[:1]) in letterless
    assert letterless_tokens(partial) == {8, 9, 11}  # a space, "!" and "!!"


def test_decoding_gives_the_text_of_tiktoken_and_passes_over_ids_without_a_token(encoding, partial):
    draw = random.Random(0)
    for _ in range(200):  # any tokens: half characters, and special ones, too
        tokens = draw.choices(range(encoding.n_vocab), k=draw.randint(0, 30))
        assert decode(encoding, tokens) == encoding.decode(tokens)
    assert decode(encoding, [*encoding.encode_ordinary("the"), 1000, 2**31, *encoding.encode_ordinary(" é")]) == "the é"
    assert decode(partial, [10, 12, 9]) == "ab!"


def test_encodings_are_the_same_by_what_they_cut_and_not_by_their_size(encoding, tmp_path):
    save_tokenizer(encoding, tmp_path / "tokenizer.json")
    assert same_tokens(encoding, load_tokenizer(tmp_path / "tokenizer.json"))
    one, other = train_bpe(["abab " * 9], 260), train_bpe(["cdcd " * 9], 260)
    assert one.n_vocab == other.n_vocab
    assert not same_tokens(one, other)
