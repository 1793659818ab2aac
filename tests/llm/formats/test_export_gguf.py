"""Exported GGUF files, read again by ourselves, by transformers and by llama.cpp."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import httpx
import pytest
import torch
import xllamacpp
from model_shapes import LLAMA, LLAMA_SCALING
from projects import CHATML
from published import TOKENS, difference
from transformers import AutoModelForCausalLM

from llm.chat import Chat, Message, prompt_tokens, turn_ends
from llm.errors import UserError
from llm.formats.export_gguf import export_gguf
from llm.formats.gguf import read_gguf
from llm.formats.huggingface import load_pretrained
from llm.formats.tokenizer_files import read_chat_template
from llm.generation.text import generate
from llm.loaded_model import LoadedModel
from llm.tokenizer import decode

SHAPES = {
    "grouped": LLAMA | {"n_embd": 64, "n_head": 4, "n_kv_head": 2, "tied": False, "n_hidden": 96},
    "scaled": LLAMA | {"n_embd": 64, "rotary_scaling": LLAMA_SCALING, "rotary_base": 500_000.0},
    "normed queries": LLAMA | {"n_embd": 64, "qk_norm": True, "tied": False, "n_hidden": 96},
}
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


def greedy_tokens(client: httpx.Client, prompt: list[int], length: int) -> list[int]:
    """What llama.cpp writes behind a prompt, up to the token that ends it."""
    options = {"temperature": 0, "cache_prompt": False, "return_tokens": True}
    return post(client, "/completion", prompt=prompt, n_predict=length, **options)["tokens"]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_exported_file_comes_back_bit_for_bit_and_llama_cpp_writes_the_same_tokens(tmp_path, make_gpt, encoding, shape):
    model = make_gpt(**shape, context_length=64)
    file = tmp_path / "cat.gguf"
    export_gguf(file, LoadedModel(model, encoding), details={"name": "cat", "base_model.count": 1})
    again, encoding_again = load_pretrained(file)
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert again.config.norm_epsilon == pytest.approx(model.config.norm_epsilon)  # a float32 there
    written_out = {"n_kv_head": model.config.kv_heads, "n_hidden": model.config.hidden_width}
    written_out["norm_epsilon"] = again.config.norm_epsilon
    assert again.config == model.config.model_copy(update=written_out)
    text = "the cat sat on the mat, 12 'tis ünïcödé 🐈"
    assert encoding_again.encode_ordinary(text) == encoding.encode_ordinary(text)
    metadata, _ = read_gguf(file)
    assert (metadata["general.name"], metadata["general.base_model.count"]) == ("cat", 1)
    assert read_chat_template(file) is None
    prompt = encoding.encode_ordinary("the cat sat on")
    with llama_cpp(file) as client:
        assert greedy_tokens(client, prompt, 16) == generate(model, [prompt], max_new_tokens=16)[0]


@pytest.mark.parametrize(("precision", "rounding"), [("stored", 1e-6), ("float16", 5e-3), ("8bit", 0.05)])
@torch.inference_mode()
def test_exported_precision_is_read_as_by_transformers(tmp_path, make_gpt, encoding, precision, rounding):
    model = make_gpt(**SHAPES["grouped"] | {"n_hidden": 48})  # rows of 48 fill no blocks of 32
    file = tmp_path / "cat.gguf"
    export_gguf(file, LoadedModel(model, encoding), precision=precision, details={})
    logits_BTV = load_pretrained(file).model(TOKENS)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name).eval()
    assert difference(logits_BTV, theirs(TOKENS).logits) <= 1e-4
    expected_BTV = model(TOKENS)
    assert (logits_BTV - expected_BTV).norm() <= rounding * expected_BTV.norm()


@pytest.mark.parametrize("shape", [{}, LLAMA | {"norm": "layer"}])
def test_export_refuses_a_shape_that_the_format_lacks(tmp_path, make_gpt, encoding, shape):
    with pytest.raises(UserError, match="is none of GGUF's llama"):
        export_gguf(tmp_path / "cat.gguf", LoadedModel(make_gpt(**shape), encoding), details={})


@pytest.mark.slow
def test_llama_cpp_agrees_on_published_weights(tmp_path, smollm2):
    published = load_pretrained(smollm2, context_length=256)
    model, encoding = published
    chat = Chat(template=CHATML, system="Be brief.")
    file = tmp_path / "smollm2.gguf"
    export_gguf(file, published, chat, details={})
    questions = ("Describe cats", "Draw rain", "Describe 1984", "Draw Rome")
    prompts = [prompt_tokens(encoding, chat, [Message("user", question)]) for question in questions]
    texts = ["  ünïcödé 🐈\n\n\ttabs", "<|im_end|> typed", "日本語のテキスト", "\r\n \r\n"]
    texts += "\n\n".join(topics.values()).split("\n\n")[:1000]
    with llama_cpp(file) as client:
        for text in texts:
            theirs = post(client, "/tokenize", content=text, add_special=False, parse_special=False)["tokens"]
            assert theirs == encoding.encode_ordinary(text)
        messages = [message._asdict() for message in TALK]
        prompt = post(client, "/apply-template", messages=messages)["prompt"]
        assert prompt == decode(encoding, prompt_tokens(encoding, chat, TALK))
        assert prompt == decode(encoding, prompt_tokens(encoding, Chat(template=read_chat_template(file)), TALK))
        answers = [greedy_tokens(client, prompt, 8) for prompt in prompts]
    stops = turn_ends(encoding, chat)
    for answer in answers:
        if answer[-1] in stops:  # which is no part of our texts
            answer.pop()
    assert answers == generate(model, prompts, max_new_tokens=8, stop_tokens=stops)
