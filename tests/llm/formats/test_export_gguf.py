"""Exported GGUF files, read again by ourselves and by llama.cpp."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import httpx
import pytest
import torch
import xllamacpp
from projects import CHATML
from torch.nn import functional as F

from llm.chat import Chat, Message, end_of_turn, prompt_tokens, turn_ends
from llm.errors import UserError
from llm.formats.export_gguf import export_gguf
from llm.formats.gguf import read_gguf
from llm.formats.huggingface import load_pretrained
from llm.formats.tokenizer_files import read_chat_template
from llm.generation.text import generate
from llm.loaded_model import LoadedModel
from llm.tokenizer import decode

LLAMA = {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "bias": False, "n_embd": 64, "n_head": 2}
SCALING = {
    "factor": 8.0,
    "low_frequency_factor": 1.0,
    "high_frequency_factor": 4.0,
    "original_context_length": 8192,
}
SHAPES = {
    "grouped": LLAMA | {"n_head": 4, "n_kv_head": 2, "tied": False, "n_hidden": 96},
    "scaled": LLAMA | {"rotary_scaling": SCALING, "rotary_base": 500_000.0},
    "normed queries": LLAMA | {"qk_norm": True, "tied": False, "n_hidden": 96},
}
DETAILS = {"name": "cat", "license": "mit", "base_model.count": 1}
TALK = [Message("user", "the cat"), Message("assistant", "sat"), Message("user", "on the mat")]


@contextmanager
def llama_cpp(file: Path) -> Iterator[httpx.Client]:
    """llama.cpp's server over a file, while the block lasts."""
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_ctx = 256
    params.cpuparams.n_threads = 1  # threads that wait for each other would starve the tests beside this one
    params.warmup = False
    server = xllamacpp.Server(params)
    with httpx.Client(base_url=server.listening_address, timeout=300) as client:
        yield client
    del server


def post(client: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    return client.post(path, json=body).raise_for_status().json()


def llama_tokens(client: httpx.Client, text: str) -> list[int]:
    """How llama.cpp reads what a person writes."""
    return post(client, "/tokenize", content=text, add_special=False, parse_special=False)["tokens"]


def greedy_tokens(client: httpx.Client, prompt: list[int], length: int) -> list[int]:
    """What llama.cpp writes behind a prompt, up to the token that ends it."""
    options = {"temperature": 0, "cache_prompt": False, "return_tokens": True}
    return post(client, "/completion", prompt=prompt, n_predict=length, **options)["tokens"]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_exported_file_comes_back_bit_for_bit(tmp_path, make_gpt, encoding, shape):
    model = make_gpt(**shape)
    file = tmp_path / "cat.gguf"
    export_gguf(file, LoadedModel(model, encoding), details=DETAILS)
    again, encoding_again = load_pretrained(file)
    weights = again.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    written_out = {"n_kv_head": model.config.kv_heads, "n_hidden": model.config.hidden_width}
    assert again.config.norm_epsilon == pytest.approx(model.config.norm_epsilon)  # a float32 there
    written_out["norm_epsilon"] = again.config.norm_epsilon
    assert again.config == model.config.model_copy(update=written_out)
    text = "the cat sat on the mat, 12 'tis ünïcödé 🐈"
    assert encoding_again.encode_ordinary(text) == encoding.encode_ordinary(text)
    metadata, _ = read_gguf(file)
    assert [metadata[f"general.{key}"] for key in DETAILS] == list(DETAILS.values())
    assert read_chat_template(file) is None


def test_exported_file_has_the_turns_of_the_chat(tmp_path, make_gpt, chatml):
    chat = Chat(template=CHATML, system="the mat")
    file = tmp_path / "cat.gguf"
    model = make_gpt(**LLAMA | {"vocabulary_size": chatml.n_vocab})
    export_gguf(file, LoadedModel(model, chatml), chat, details={})
    metadata, _ = read_gguf(file)
    assert metadata["tokenizer.ggml.eos_token_id"] == end_of_turn(chatml, chat)
    again = Chat(template=read_chat_template(file))
    assert prompt_tokens(chatml, again, TALK) == prompt_tokens(chatml, chat, TALK)


@pytest.mark.parametrize("shape", [{}, LLAMA | {"norm": "layer"}])
def test_export_refuses_a_shape_that_the_format_lacks(tmp_path, make_gpt, encoding, shape):
    with pytest.raises(UserError, match=r"is none of GGUF's llama .*--to hf has more"):
        export_gguf(tmp_path / "cat.gguf", LoadedModel(make_gpt(**shape), encoding), details={})


@pytest.mark.parametrize("name", ["grouped", "normed queries"])
def test_llama_cpp_writes_the_same_tokens_for_a_model_of_ours(tmp_path, make_gpt, encoding, name):
    model = make_gpt(**SHAPES[name], context_length=64)
    file = tmp_path / "cat.gguf"
    export_gguf(file, LoadedModel(model, encoding), details={})
    prompt = encoding.encode_ordinary("the cat sat on")
    with llama_cpp(file) as client:
        assert greedy_tokens(client, prompt, 16) == generate(model, [prompt], max_new_tokens=16)[0]


@pytest.fixture(scope="module")
def published(smollm2):
    return load_pretrained(smollm2, context_length=256)


def some_texts(count: int) -> list[str]:
    """Paragraphs of Python's documentation, and what tokenizers stumble over."""
    paragraphs = [part for text in topics.values() for part in text.split("\n\n") if part.strip()]
    odd = ["  ünïcödé 🐈\n\n\ttabs", "<|im_end|> typed", "don't 3.14159 a_b", "日本語のテキスト", "\r\n \r\n"]
    return [*odd, *paragraphs][:count]


@pytest.mark.slow
def test_llama_cpp_agrees_on_published_weights(tmp_path, published):
    model, encoding = published
    chat = Chat(template=CHATML, system="Be brief.")
    file = tmp_path / "smollm2.gguf"
    export_gguf(file, published, chat, details={})
    questions = [f"{verb} {noun}" for verb in ("Describe", "Draw") for noun in ("cats", "rain", "Rome", "love", "1984")]
    prompts = [prompt_tokens(encoding, chat, [Message("user", question)]) for question in questions]
    with llama_cpp(file) as client:
        texts = some_texts(1000)
        theirs = [llama_tokens(client, text) for text in texts]
        assert len(theirs) == 1000
        assert theirs == [encoding.encode_ordinary(text) for text in texts]
        messages = [message._asdict() for message in TALK]
        prompt = post(client, "/apply-template", messages=messages)["prompt"]
        assert prompt == decode(encoding, prompt_tokens(encoding, chat, TALK))
        answers = [greedy_tokens(client, prompt, 8) for prompt in prompts]
    assert len(prompts) == 10
    stops = turn_ends(encoding, chat)
    for answer in answers:
        if answer[-1] in stops:  # which is no part of our texts
            answer.pop()
    assert answers == generate(model, prompts, max_new_tokens=8, stop_tokens=stops)


@torch.inference_mode()
def test_eight_bits_cost_less_than_a_hundredth_of_the_loss(tmp_path, published):
    model, encoding = published
    file = tmp_path / "smollm2.gguf"
    export_gguf(file, published, precision="8bit", details={})
    packed, _ = load_pretrained(file)
    tokens_T = torch.tensor(encoding.encode_ordinary(topics["floating"])[:256])
    losses = [F.cross_entropy(gpt(tokens_T[None])[0, :-1], tokens_T[1:]).item() for gpt in (model, packed)]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    assert file.stat().st_size < 150e6
