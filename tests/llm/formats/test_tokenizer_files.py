import json

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from published import ADDED, SPECIAL, TEXT, make_tokenizer

from llm.errors import UserError
from llm.formats.tokenizer_files import GGUF_SPLITS, gguf_encoding, gpt2_encoding, read_chat_template, read_tokenizer
from llm.formats.tokenizer_json import load_tokenizer, save_tokenizer

# Letters and spaces often, bytes that a vocabulary of English text lacks, and anything that Unicode 14 knows.
POOL = "ab  c\n\t\r'sTLl12345678 é漢字🙂½²\u0085\u00a0\u2028\u3000.,!?--\x04\x06"
ANY_TEXT = st.lists(
    st.one_of(st.sampled_from([*POOL, *ADDED, "e\u0301"]), st.characters(exclude_categories=("Cs", "Cn"))), max_size=40
).map("".join)


FAMILIES = [("gpt-2", True), ("smollm", False), ("llama-bpe", True), ("qwen2", True)]


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda p: p[0])
def model(request, tmp_path_factory):
    """The published tokenizer; and ours of tokenizer.json, after saving and loading, and of GGUF, where it has one."""
    split, complete = request.param
    folder = tmp_path_factory.mktemp(split)
    tokenizer = make_tokenizer(split, complete)
    tokenizer.save(str(folder / "tokenizer.json"))
    encoding = read_tokenizer(folder)
    save_tokenizer(encoding, folder / "saved.json")
    encodings = [encoding, load_tokenizer(folder / "saved.json")]
    if split in GGUF_SPLITS:
        encodings.append(gguf_encoding(metadata_of(tokenizer, split)))
    return tokenizer, encodings


def metadata_of(tokenizer, split):
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.get)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    types = [3 if token in SPECIAL else 1 for token in tokens]
    parts = {
        "model": "gpt2",
        "pre": split,
        "tokens": [*tokens, "[PAD0]"],
        "token_type": [*types, 5],
        "merges": [" ".join(pair) for pair in merges],
    }
    return {f"tokenizer.ggml.{key}": value for key, value in parts.items()}


@settings(max_examples=400)
@given(text=ANY_TEXT)
def test_unicode_text_gets_the_published_ids(model, text):
    tokenizer, ours = model
    assume(not any(token in text for token in SPECIAL))  # which Hugging Face finds in text, and encode_ordinary doesn't
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert [encoding.encode_ordinary(text) for encoding in ours] == [ids] * len(ours)


def test_long_texts_and_text_around_special_tokens_get_the_published_ids(model):
    tokenizer, ours = model
    marked = "<|im_start|>user\n<|im_end|>the cat<tool_call> 12<|im_end|>\n"
    texts = TEXT[:20]
    ids = [encoded.ids for encoded in tokenizer.encode_batch_fast(texts)]
    for encoding in ours:
        assert encoding.encode_ordinary_batch(texts, num_threads=1) == ids
        assert encoding.decode(ids[0]) == texts[0]
        assert encoding.encode(marked, allowed_special="all") == tokenizer.encode(marked, add_special_tokens=False).ids


def test_special_tokens_keep_their_ids_and_are_not_found_in_text(model):
    tokenizer, ours = model
    for encoding in ours:
        assert encoding._special_tokens == {token: tokenizer.token_to_id(token) for token in SPECIAL}
        assert encoding.n_vocab == tokenizer.get_vocab_size()
        special = set(encoding._special_tokens.values())
        for text in ("".join(SPECIAL), " <|im_end|>\n", "<|im_<|im_end|>end|>", "<tool_call><|im_end|>"):
            assert not special & set(encoding.encode_ordinary(text))


def test_gguf_encoding_of_llama_3_takes_a_known_word_whole():
    metadata = metadata_of(make_tokenizer("llama-bpe", True), "llama-bpe")
    metadata["tokenizer.ggml.tokens"][-1] = "Ġzqzq"  # of which no merge makes a token
    metadata["tokenizer.ggml.token_type"][-1] = 1
    encoding = gguf_encoding(metadata)
    assert encoding.encode_ordinary(" zqzq") == [encoding.n_vocab - 1]


def test_gpt2_encoding_has_the_ids_of_its_tokenizer(tmp_path):
    tokenizer = make_tokenizer("gpt-2", True)
    vocabulary = tmp_path / "encoder.json"
    vocabulary.write_text(json.dumps(tokenizer.get_vocab(with_added_tokens=False) | {"<|endoftext|>": 1000}))
    encoding = gpt2_encoding(vocabulary)
    assert encoding.eot_token == 1000
    assert encoding.encode_ordinary(TEXT[0]) == tokenizer.encode(TEXT[0]).ids


@pytest.mark.parametrize(
    ("part", "value", "reason"),
    [
        ("model", "llama", "tokenizer.ggml.model is 'llama'"),
        ("pre", "default", "tokenizer.ggml.pre is 'default'"),
        ("merges", None, "tokenizer.ggml.merges is missing"),
        ("token_type", [6] * 1001, "tokenizer.ggml.token_type of .* is 6"),
        ("tokens", ["a"] * 1001, "tokenizer.ggml.tokens holds 'a' twice"),
        ("tokens", ["a"], "shorter|longer"),
    ],
)
def test_gguf_metadata_of_another_kind_are_refused_with_their_key(part, value, reason):
    metadata = metadata_of(make_tokenizer("smollm", False), "smollm") | {f"tokenizer.ggml.{part}": value}
    with pytest.raises(ValueError, match=reason):
        gguf_encoding({key: value for key, value in metadata.items() if value is not None})


TEMPLATE = "{{ messages[0].content }} é🙂\n"
SEVERAL = [{"name": "tool_use", "template": "{{ tools }}"}, {"name": "default", "template": TEMPLATE}]


@pytest.mark.parametrize(
    ("content", "expected"),
    [({}, None), ({"chat_template": TEMPLATE}, TEMPLATE), ({"chat_template": SEVERAL}, TEMPLATE)],
)
def test_chat_template_is_read_where_its_makers_put_it(tmp_path, content, expected):
    assert read_chat_template(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(content))
    assert read_chat_template(tmp_path) == expected
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert read_chat_template(tmp_path) == "{{ messages }}"  # as transformers chooses, too


@pytest.mark.parametrize("content", ["{", "[]", '{"chat_template": []}', '{"chat_template": [{"name": "default"}]}'])
def test_corrupt_tokenizer_config_is_named(tmp_path, content):
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer_config\.json: no chat template \("):
        read_chat_template(tmp_path)
