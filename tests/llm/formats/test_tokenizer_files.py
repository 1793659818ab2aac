import json
import pickle
import re
from copy import deepcopy
from pydoc_data.topics import topics

import gguf
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, trainers
from tokenizers import pre_tokenizers as pre
from transformers import GPT2Tokenizer

from llm.errors import UserError
from llm.formats.tokenizer_files import (
    LLAMA3_SPLIT,
    byte_level_bpe,
    gguf_encoding,
    gpt2_encoding,
    read_chat_template,
    read_tokenizer,
)
from llm.tokenizer import PartialEncoding, byte_characters, load_tokenizer, save_tokenizer

TEXT = list(topics.values())
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SPLITS = {
    "gpt-2": pre.ByteLevel(add_prefix_space=False),
    "smollm": pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)]),
    "llama-bpe": pre.Sequence(
        [pre.Split(Regex(LLAMA3_SPLIT), "isolated"), pre.ByteLevel(add_prefix_space=False, use_regex=False)]
    ),
}
# Letters and spaces often, bytes that a vocabulary of English text lacks, and anything that Unicode 14 knows.
POOL = "ab  c\n\t\r'sTLl12345678 é漢字🙂½²\u0085\u00a0\u2028\u3000.,!?--\x04\x06"
ANY_TEXT = st.text(st.one_of(st.sampled_from(POOL), st.characters(exclude_categories=("Cs", "Cn"))), max_size=40)


def published(split, complete):
    """What a model's makers publish: special tokens first, as SmolLM2's, or last, as GPT-2's and Llama 3's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = SPLITS[split], decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=1000,
            initial_alphabet=sorted(byte_characters()) if complete else [],
            special_tokens=[] if complete else SPECIAL,
            show_progress=False,
        ),
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return tokenizer


@pytest.fixture(scope="module", params=[("gpt-2", True), ("smollm", False), ("llama-bpe", True)], ids=lambda p: p[0])
def model(request, tmp_path_factory):
    """(its way to split, the published tokenizer, ours of tokenizer.json, of GGUF, and after saving and loading)."""
    split, complete = request.param
    folder = tmp_path_factory.mktemp(split)
    tokenizer = published(split, complete)
    tokenizer.save(str(folder / "tokenizer.json"))
    encoding = read_tokenizer(folder)
    save_tokenizer(encoding, folder / "saved.json")
    ours = [encoding, gguf_encoding(metadata_of(tokenizer, split)), load_tokenizer(folder / "saved.json")]
    return split, tokenizer, [*ours, read_tokenizer(folder / "saved.json"), pickle.loads(pickle.dumps(encoding))]


def metadata_of(tokenizer, split):
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.get)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    parts = {
        "model": "gpt2",
        "pre": split,
        "tokens": [*tokens, "[PAD0]"],
        "token_type": [*(3 if token in SPECIAL else 1 for token in tokens), 5],
        "merges": [" ".join(pair) for pair in merges],
    }
    return {f"tokenizer.ggml.{key}": value for key, value in parts.items()}


@settings(max_examples=400)
@given(text=ANY_TEXT)
def test_any_text_gets_the_published_ids(model, text):
    _, tokenizer, ours = model
    assume(not any(token in text for token in SPECIAL))  # which Hugging Face finds in text, and encode_ordinary doesn't
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert [encoding.encode_ordinary(text) for encoding in ours] == [ids] * len(ours)


def test_long_texts_get_the_published_ids(model):
    _, tokenizer, ours = model
    published_ids = [encoded.ids for encoded in tokenizer.encode_batch_fast(TEXT[:200])]
    for encoding in ours:
        assert encoding.encode_ordinary_batch(TEXT[:200], num_threads=1) == published_ids
        assert encoding.decode(published_ids[0]) == TEXT[0]


def test_a_saved_one_gives_hugging_face_the_published_ids(model, tmp_path):
    _, tokenizer, (encoding, *_) = model
    save_tokenizer(encoding, tmp_path / "tokenizer.json")
    saved = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in [*TEXT[:50], "!\x04! 12\x06x", "\x04"]:
        assert saved.encode(text).ids == tokenizer.encode(text).ids


def test_special_tokens_keep_their_ids_and_are_not_found_in_text(model):
    split, tokenizer, ours = model
    for encoding in ours:
        assert encoding._special_tokens == {token: tokenizer.token_to_id(token) for token in SPECIAL}
        assert encoding.n_vocab == tokenizer.get_vocab_size()
        assert not set(encoding._special_tokens.values()) & set(encoding.encode_ordinary("a<|im_end|>"))
        assert isinstance(encoding, PartialEncoding) == (split == "smollm")


def test_smollm_splits_digits_and_the_space_before_them():
    encoding = gguf_encoding(metadata_of(published("smollm", False), "smollm"))
    words = [b" the", b"  ", b"1", b"2", b" ", b" the"]
    assert encoding.decode_tokens_bytes(encoding.encode_ordinary(" the  12  the")) == words


@pytest.mark.parametrize("names", [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")])
def test_the_two_files_of_gpt2_give_the_ids_of_transformers(names, tmp_path):
    model = json.loads(published("gpt-2", True).to_str())["model"]
    vocabulary, merges = tmp_path / names[0], tmp_path / names[1]
    vocabulary.write_text(json.dumps(model["vocab"] | {"<|endoftext|>": 1000}))
    merges.write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in model["merges"]), ""]))
    oracle = GPT2Tokenizer(vocab=str(vocabulary), merges=str(merges))
    for encoding in (gpt2_encoding(tmp_path), read_tokenizer(tmp_path)):
        assert encoding.eot_token == 1000
        for text in ["Hello, world! 123", *TEXT[:30]]:
            assert encoding.encode_ordinary(text) == oracle(text)["input_ids"]


def test_two_files_of_another_tokenizer_class_are_refused(tmp_path):
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "Qwen2Tokenizer"}')
    with pytest.raises(ValueError, match=r"tokenizer_config\.json says Qwen2Tokenizer, .*; not GPT-2's"):
        read_tokenizer(tmp_path)


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(ValueError, match=rf"^{tmp_path} holds no tokenizer: neither tokenizer\.json nor vocab\.json"):
        read_tokenizer(tmp_path)


def test_a_gguf_file_is_read_by_its_name(tmp_path):
    tokenizer = published("smollm", False)
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    for key, value in metadata_of(tokenizer, "smollm").items():
        add = writer.add_string if isinstance(value, str) else writer.add_array
        add(key, value)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    assert read_tokenizer(tmp_path / "model.gguf").encode_ordinary(TEXT[0]) == tokenizer.encode(TEXT[0]).ids


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": "llama"}, "tokenizer.ggml.model is 'llama'; only 'gpt2'"),
        ({"pre": "default"}, "tokenizer.ggml.pre is 'default'; known ways to split text are 'gpt-2', 'smollm'"),
        ({"merges": None}, "tokenizer.ggml.merges is missing"),
        ({"token_type": [4] * 1001}, "tokenizer.ggml.token_type of .* is 4: text would have to be searched"),
        ({"tokens": ["a"] * 1001}, "tokenizer.ggml.tokens holds 'a' twice"),
        ({"tokens": ["a"]}, "shorter|longer"),
    ],
)
def test_gguf_metadata_of_another_kind_is_refused_with_its_key(change, reason):
    metadata = metadata_of(published("smollm", False), "smollm") | {
        f"tokenizer.ggml.{key}": value for key, value in change.items()
    }
    with pytest.raises(ValueError, match=reason):
        gguf_encoding({key: value for key, value in metadata.items() if value is not None})


@pytest.fixture(scope="module")
def layout():
    return json.loads(published("smollm", False).to_str())


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (["normalizer"], json.loads(normalizers.NFC().__getstate__()), "its normalizer NFC would change text"),
        (["model"], {"type": "WordPiece", "vocab": {}}, "its model is WordPiece; only BPE is read"),
        (["model", "byte_fallback"], True, "its model has byte_fallback True, which would change ids"),
        (["model", "unk_token"], "<|endoftext|>", r"bytes that it lacks become '<\|endoftext\|>'"),
        (["added_tokens", 0, "special"], False, r"its added token '<\|endoftext\|>' isn't special"),
        (["pre_tokenizer", "pretokenizers", 0, "individual_digits"], False, "its pre_tokenizer .*Digits.* is none of"),
        (["pre_tokenizer", "pretokenizers", 1, "add_prefix_space"], True, "its pre_tokenizer .* is none of those"),
        (["model", "merges"], [["a", "b", "c"]], "the merge 'a b c' is not of two tokens to a third"),
        (["model", "vocab", "a b"], 2000, "token 'a b' is not spelled in byte-level BPE's characters"),
        (["model", "vocab", "a"], 5, "two of its tokens have one id"),
        (["model", "vocab", "a"], -1, "no token can have the id -1$"),
        (["model"], None, "TypeError"),
    ],
)
def test_a_tokenizer_that_cannot_be_kept_is_refused_with_file_and_reason(layout, path, value, reason, tmp_path):
    changed = part = deepcopy(layout)
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    (tmp_path / "tokenizer.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=rf"^{tmp_path}/tokenizer\.json: {reason}"):
        read_tokenizer(tmp_path)


def test_loading_stays_with_what_was_saved(layout, tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(layout))
    with pytest.raises(ValueError, match=r"tokenizer\.json: not "):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_ids_out_of_the_order_of_merges_are_refused():
    vocabulary = {"a": 0, "b": 1, "c": 2, "ab": 4, "bc": 3}
    with pytest.raises(ValueError, match="the merge 'b c' is after 'a b' but makes a lower id"):
        byte_level_bpe(vocabulary, [("a", "b"), ("b", "c")], r"\w+", {})


def test_a_token_that_ranks_make_but_merges_do_not_is_refused():
    vocabulary = {"a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4, "abc": 5}
    merges = [("a", "b"), ("b", "c"), ("a", "bc")]  # of `abc` the merges make `ab c`, and rank would join these two
    with pytest.raises(ValueError, match="merges make 'ab c' of token 'abc', which tiktoken would take whole"):
        byte_level_bpe(vocabulary, merges, r"\w+", {})


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=9), st.text("abc", max_size=20))
def test_merges_are_taken_where_they_make_every_token_and_refused_elsewhere(pairs, text):
    tokens, merges = ["a", "b", "c"], []
    for left, right in pairs:
        pair = tokens[left % len(tokens)], tokens[right % len(tokens)]
        if "".join(pair) not in tokens:
            merges.append(pair)
            tokens.append("".join(pair))
    vocabulary = {token: index for index, token in enumerate(tokens)}
    oracle = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    if all(oracle.encode(token).tokens == [token] for token in tokens):
        assert byte_level_bpe(vocabulary, merges, r"\w+", {}).encode_ordinary(text) == oracle.encode(text).ids
    else:
        with pytest.raises(UserError, match="which tiktoken would take whole"):
            byte_level_bpe(vocabulary, merges, r"\w+", {})


@pytest.mark.parametrize("before", [0, 5000])
def test_of_many_tokens_the_one_that_merges_do_not_make_is_named(before):
    letters = sorted(byte_characters())[:200]
    pairs = [(one, other) for one in letters for other in letters][:before]
    vocabulary = {token: index for index, token in enumerate([*letters, *map("".join, pairs)])}
    assert byte_level_bpe(vocabulary, pairs, r"\w+", {}).n_vocab == 200 + before
    for token, parts in (("ŁŁ", ""), (letters[0] + "Ł", letters[0])):  # a letter that is no token is left out
        with pytest.raises(UserError, match=rf"merges make '{re.escape(parts)}' of token '{re.escape(token)}', which"):
            byte_level_bpe(vocabulary | {token: 200 + before}, pairs, r"\w+", {})


def test_a_token_that_no_merge_makes_is_a_word_only_where_words_are_looked_up():
    vocabulary = {token: index for index, token in enumerate(sorted(byte_characters()))}
    with pytest.raises(ValueError, match="merges make 'a b c' of token 'abc'"):
        byte_level_bpe(vocabulary | {"abc": 256}, [], r"\w+|\W+", {})
    encoding = byte_level_bpe(vocabulary | {"abc": 256}, [], r"\w+|\W+", {}, whole_words=True)
    assert encoding.encode_ordinary("abc") == [256]
    assert len(encoding.encode_ordinary("abcd")) == 4


def write_gguf(path, **metadata):
    writer = gguf.GGUFWriter(path, "llama")
    for name, text in metadata.items():
        writer.add_string(f"tokenizer.{name}", text)
    for part in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        part()
    writer.close()
    return path


def test_a_chat_template_is_found_where_its_makers_put_it(tmp_path):
    template, other = "{{ messages[0].content }} é🙂\n", "{{ tools }}"
    assert read_chat_template(write_gguf(tmp_path / "a.gguf", chat_template=template)) == template
    assert read_chat_template(write_gguf(tmp_path / "b.gguf")) is None
    config = tmp_path / "tokenizer_config.json"
    assert read_chat_template(tmp_path) is None
    several = [{"name": "tool_use", "template": other}, {"name": "default", "template": template}]
    for content, expected in (
        ({}, None),
        ({"chat_template": template}, template),
        ({"chat_template": several}, template),
    ):
        config.write_text(json.dumps(content))
        assert read_chat_template(tmp_path) == expected
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert read_chat_template(tmp_path) == "{{ messages }}"  # as transformers chooses, too


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"chat_template": []}', '{"chat_template": [{"name": "default"}]}', '{"chat_template": ["a"]}'],
)
def test_a_tokenizer_config_without_a_template_where_one_should_be_is_named(tmp_path, content):
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer_config\.json: no chat template \("):
        read_chat_template(tmp_path)


def test_a_tokenizer_nested_too_deep_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"tokenizer\.json: RecursionError: "):
        read_tokenizer(tmp_path / "tokenizer.json")
