import json
from copy import deepcopy

import gguf
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from published import ADDED, SPECIAL, TEXT, make_tokenizer
from tokenizers import Tokenizer
from transformers import GPT2Tokenizer

from llm.errors import UserError
from llm.formats.tokenizer_files import gguf_encoding, gpt2_encoding, read_chat_template, read_tokenizer
from llm.formats.tokenizer_json import PublishedEncoding, load_tokenizer, save_tokenizer
from llm.generation.text import TextStream

# Letters and spaces often, bytes that a vocabulary of English text lacks, and anything that Unicode 14 knows.
POOL = "ab  c\n\t\r'sTLl12345678 é漢字🙂½²\u0085\u00a0\u2028\u3000.,!?--\x04\x06"
ANY_TEXT = st.lists(
    st.one_of(st.sampled_from([*POOL, *ADDED, "e\u0301"]), st.characters(exclude_categories=("Cs", "Cn"))), max_size=40
).map("".join)


FAMILIES = [("gpt-2", True), ("smollm", False), ("llama-bpe", True)]


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda p: p[0])
def model(request, tmp_path_factory):
    """(its way to split, the published tokenizer, ours of tokenizer.json, of GGUF, and after saving and loading)."""
    split, complete = request.param
    folder = tmp_path_factory.mktemp(split)
    tokenizer = make_tokenizer(split, complete)
    tokenizer.save(str(folder / "tokenizer.json"))
    encoding = read_tokenizer(folder)
    save_tokenizer(encoding, folder / "saved.json")
    saved = load_tokenizer(folder / "saved.json")
    return split, tokenizer, [encoding, gguf_encoding(metadata_of(tokenizer, split)), saved]


def token_type(token):
    if token in SPECIAL:
        return 3
    return 4 if token in ADDED else 1


def metadata_of(tokenizer, split):
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.get)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    parts = {
        "model": "gpt2",
        "pre": split,
        "tokens": [*tokens, "[PAD0]"],
        "token_type": [*map(token_type, tokens), 5],
        "merges": [" ".join(pair) for pair in merges],
    }
    return {f"tokenizer.ggml.{key}": value for key, value in parts.items()}


@settings(max_examples=400)
@given(text=ANY_TEXT)
def test_unicode_text_gets_the_published_ids(model, text):
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


def test_text_stream_joins_halves_of_characters(model):
    split, _, ours = model
    text = "the 漢字🙂 é\n"
    for encoding in ours:
        stream, tokens = TextStream(encoding), encoding.encode_ordinary(text)
        streamed = "".join(stream.feed(token) for token in tokens) + stream.finish()
        assert streamed == encoding.decode(tokens)
        assert streamed == text or split == "smollm"  # whose vocabulary lacks some of these bytes


def test_text_around_special_tokens_gets_the_published_ids(model):
    _, tokenizer, ours = model
    text = "<|im_start|>user\n<|im_end|>the cat<tool_call> 12<|im_end|>\n"
    for encoding in ours:
        assert encoding.encode(text, allowed_special="all") == tokenizer.encode(text, add_special_tokens=False).ids


def test_saved_tokenizer_gives_hugging_face_the_published_ids(model, tmp_path):
    _, tokenizer, (encoding, *_) = model
    save_tokenizer(encoding, tmp_path / "tokenizer.json")
    saved = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in [*TEXT[:50], "!\x04! 12\x06x", "\x04"]:
        assert saved.encode(text).ids == tokenizer.encode(text).ids


def test_special_tokens_keep_their_ids_and_are_not_found_in_text(model):
    _, tokenizer, ours = model
    for encoding in ours:
        assert encoding._special_tokens == {token: tokenizer.token_to_id(token) for token in SPECIAL}
        assert encoding.n_vocab == tokenizer.get_vocab_size()
        special = set(encoding._special_tokens.values())
        for text in ("a<|im_end|>", "".join(SPECIAL), " <|im_end|>\n", "<|im_<|im_end|>end|>", "<tool_call><|im_end|>"):
            assert not special & set(encoding.encode_ordinary(text))
        assert isinstance(encoding, PublishedEncoding)


def test_smollm_splits_digits_and_the_space_before_them():
    encoding = gguf_encoding(metadata_of(make_tokenizer("smollm", False), "smollm"))
    words = [b" the", b"  ", b"1", b"2", b" ", b" the"]
    assert encoding.decode_tokens_bytes(encoding.encode_ordinary(" the  12  the")) == words


def test_gpt2_encoding_has_the_ids_of_transformers(tmp_path):
    model = json.loads(make_tokenizer("gpt-2", True).to_str())["model"]
    vocabulary = tmp_path / "encoder.json"
    merges = tmp_path / "vocab.bpe"
    vocabulary.write_text(json.dumps(model["vocab"] | {"<|endoftext|>": 1000}))
    merges.write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in model["merges"]), ""]))
    oracle = GPT2Tokenizer(vocab=str(vocabulary), merges=str(merges))
    encoding = gpt2_encoding(vocabulary)
    assert encoding.eot_token == 1000
    for text in ["Hello, world! 123", *TEXT[:30]]:
        assert encoding.encode_ordinary(text) == oracle(text)["input_ids"]


def test_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(UserError, match=rf"^{tmp_path}/tokenizer\.json"):
        read_tokenizer(tmp_path)


def test_gguf_file_is_read_by_its_suffix(tmp_path):
    tokenizer = make_tokenizer("smollm", False)
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
        ({"token_type": [6] * 1001}, "tokenizer.ggml.token_type of .* is 6; byte-level BPE has no such token"),
        ({"tokens": ["a"] * 1001}, "tokenizer.ggml.tokens holds 'a' twice"),
        ({"tokens": ["a"]}, "shorter|longer"),
    ],
)
def test_gguf_metadata_of_another_kind_are_refused_with_their_key(change, reason):
    metadata = metadata_of(make_tokenizer("smollm", False), "smollm") | {
        f"tokenizer.ggml.{key}": value for key, value in change.items()
    }
    with pytest.raises(ValueError, match=reason):
        gguf_encoding({key: value for key, value in metadata.items() if value is not None})


@pytest.fixture(scope="module")
def layout():
    return json.loads(make_tokenizer("smollm", False).to_str())


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (["normalizer"], {"type": "Lowercase"}, r".*it makes 'the cat' of 'The cat'"),
        (["model", "byte_fallback"], "x", "not the tokenizer.json of a byte-level BPE "),
        (["model", "merges"], [["a", "b", "c"]], "not the tokenizer.json of a byte-level BPE "),
        (["model", "vocab", "▁b"], 2000, "not the tokenizer.json of a byte-level BPE .*can't encode character"),
        (["model", "vocab", "a"], 5, ".*two of its tokens have one id"),
        (["model", "vocab", "a"], -1, "not the tokenizer.json of a byte-level BPE "),
        (["model"], None, "not the tokenizer.json of a byte-level BPE "),
    ],
)
def test_tokenizer_that_changes_text_is_refused_with_file_and_reason(layout, path, value, reason, tmp_path):
    changed = part = deepcopy(layout)
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    (tmp_path / "tokenizer.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=rf"^{tmp_path}/tokenizer\.json: {reason}"):
        read_tokenizer(tmp_path)


def write_gguf(path, **metadata):
    writer = gguf.GGUFWriter(path, "llama")
    for name, text in metadata.items():
        writer.add_string(f"tokenizer.{name}", text)
    for part in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        part()
    writer.close()
    return path


def test_chat_template_is_read_where_its_makers_put_it(tmp_path):
    template = "{{ messages[0].content }} é🙂\n"
    assert read_chat_template(write_gguf(tmp_path / "a.gguf", chat_template=template)) == template
    assert read_chat_template(write_gguf(tmp_path / "b.gguf")) is None
    config = tmp_path / "tokenizer_config.json"
    assert read_chat_template(tmp_path) is None
    several = [{"name": "tool_use", "template": "{{ tools }}"}, {"name": "default", "template": template}]
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
def test_corrupt_tokenizer_config_is_named(tmp_path, content):
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer_config\.json: no chat template \("):
        read_chat_template(tmp_path)
