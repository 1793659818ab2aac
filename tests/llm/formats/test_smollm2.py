"""The real SmolLM2-135M, quantised in a GGUF file, against transformers reading the same file."""

import tarfile
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from llm.formats.huggingface import load_pretrained
from llm.generation.text import generate

SPEECHES = Path(__file__).parents[2] / "data/corpus.tgz"


def excerpt() -> str:
    """The beginning of Washington's first State of the Union."""
    with tarfile.open(SPEECHES) as archive:
        speech = archive.extractfile("speeches/1790_george_washington_n.txt").read().decode()
    return " ".join(speech.split())[:4000]


@pytest.fixture(scope="module")
def ours(smollm2):
    return load_pretrained(smollm2, context_length=1024)


def perplexity(logits_TV, tokens_T) -> float:
    return F.cross_entropy(logits_TV[:-1], tokens_T[1:]).exp().item()


def test_smollm2_knows_the_capital_of_france(ours):
    model, encoding = ours
    (tokens,) = generate(model, [encoding.encode_ordinary("The capital of France is")], max_new_tokens=1)
    assert encoding.decode(tokens) == " Paris"


@torch.inference_mode()
def test_smollm2_has_the_perplexity_of_transformers(ours, smollm2):
    model, encoding = ours
    tokens_T = torch.tensor(encoding.encode_ordinary(excerpt()))
    theirs = AutoModelForCausalLM.from_pretrained(smollm2.parent, gguf_file=smollm2.name).eval()
    logits_TV, expected_TV = model(tokens_T[None])[0], theirs(tokens_T[None]).logits[0]
    assert (logits_TV - expected_TV).abs().max().item() <= 1e-3
    assert perplexity(logits_TV, tokens_T) == pytest.approx(perplexity(expected_TV, tokens_T), rel=1e-4)
    assert perplexity(logits_TV, tokens_T) == pytest.approx(34.22, rel=0.02)
