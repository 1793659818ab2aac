import json
import math
import shutil
from itertools import islice, pairwise

import numpy as np
import pandas as pd
import pyppmd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from llm.device import Compute
from llm.errors import UserError
from llm.loaded_model import LoadedModel
from llm.tokenizer import end_of_text, token_bytes
from tasks.applications.foundation import baselines
from tasks.applications.foundation.kneser_ney import models
from tasks.applications.foundation.measure import EVALUATION, Evaluate
from tasks.applications.foundation.windows import overlapping, token_losses
from tasks.measures.description import Subject
from tasks.measures.evaluate import evaluate
from tasks.measures.intervals import interval, share

CPU = Compute(torch.device("cpu"), torch.float32, "a test")
PARAMS = Evaluate(batch_size=3, sample_prompts=("the cat",), sample_tokens=8, seed=1)


def tokens_of(folder, split):
    return np.fromfile(folder / f"{split}.bin", "<u2").astype("int64")


def measure(model, encoding, data, evidence, params=PARAMS) -> dict[str, float]:
    """The metrics of a foundation on a folder of token files."""
    subject = Subject(
        loaded=LoadedModel(model, encoding),
        data=data,
        base=None,
        params=params,
        compute=CPU,
        evidence=evidence,
    )
    return evaluate(EVALUATION, subject)


@pytest.fixture
def measured(make_gpt, encoding, token_files, tmp_path):
    return measure(make_gpt(context_length=64), encoding, token_files, tmp_path)


@pytest.fixture
def losses(make_gpt, token_files):
    """Nats of each token of the test file but the first, one at a time: after the 64 before it, or fewer, so that none
    has less than it has in windows that overlap."""
    gpt, tokens = make_gpt(context_length=64), torch.tensor(tokens_of(token_files, "test"))
    found = []
    for place in range(1, len(tokens)):
        start = max(0, (place - 33) // 32 * 32)  # windows begin at every 32nd token
        start = min(start, max(0, len(tokens) - 65))  # the last ends with the file
        found.append(F.cross_entropy(gpt(tokens[None, start:place])[0, -1:], tokens[place : place + 1]).item())
    return np.array(found)


def test_the_foundation_predicts_every_token_of_the_test_file_after_half_a_context_at_least(
    measured, losses, make_gpt, encoding, token_files, tmp_path
):
    assert len(losses) % 32  # the last window is not like the others
    assert measured["test_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert measured["perplexity"] == pytest.approx(math.exp(measured["test_loss"]))
    evidence = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert evidence["samples.md"].startswith(b"# Samples of the foundation\n\n> the cat")
    again = measure(make_gpt(context_length=64), encoding, token_files, tmp_path)
    assert again == measured
    assert {name: (tmp_path / name).read_bytes() for name in evidence} == evidence


def test_bits_per_byte_are_the_bits_of_the_predicted_tokens_over_their_own_bytes(
    measured, losses, encoding, token_files
):
    tokens, end = tokens_of(token_files, "test")[1:], end_of_text(encoding)
    assert end in tokens  # which a byte of no text stands for
    size = sum(len(token_bytes(encoding, token)) for token in tokens.tolist() if token != end)
    assert measured["bits_per_byte"] == pytest.approx(losses.sum() / size / math.log(2), rel=1e-5)


@given(st.integers(2, 300), st.integers(1, 70))
def test_windows_score_each_token_once_after_half_a_context_at_least(tokens, context_length):
    context_length = min(context_length, tokens - 1)
    windows = overlapping(tokens, context_length)
    scored = [each.start + place + 1 for each in windows for place in range(each.scored, context_length)]
    assert scored == [*range(1, tokens)]
    assert all(each.scored + 1 > context_length / 2 for each in windows[1:])
    assert len(windows) <= 2 * tokens / context_length + 2  # which bounds the cost


def test_n_grams_are_as_long_as_validation_says_and_never_longer_than_the_first_that_is_worse(monkeypatch):
    rng = np.random.default_rng(1)
    train, validation = (np.resize([1, 2, 1, 3, 2, 3], 600).copy() for _ in range(2))
    noise = rng.random(600) < 0.1
    train[noise] = rng.integers(0, 5, noise.sum())
    bits = [baselines.ngram_bits(model, validation).sum() for model in islice(models(train, 5), 1, 5)]
    shorter = [one for one, other in pairwise(bits) if other >= one]
    expected = 2 + (bits.index(shorter[0]) if shorter else 3)
    assert baselines.best_ngrams(train, validation, 5).order == expected > 2
    assert baselines.best_ngrams(train, rng.integers(0, 5, 600), 5).order == 2  # nothing helps with what is random
    monkeypatch.setattr(baselines, "NGRAM_ORDERS", 2)
    assert baselines.best_ngrams(train, validation, 5).order == 2


def test_intervals_are_over_documents_and_that_of_the_lead_is_paired(
    make_gpt, encoding, token_files, tmp_path, monkeypatch
):
    monkeypatch.setattr(baselines, "PPMD_BYTES", 1)  # of so little it learns nothing
    folder = shutil.copytree(token_files, tmp_path / "documents")
    tokens, end = tokens_of(folder, "test"), end_of_text(encoding)
    tokens[19::20] = end
    tokens.astype("<u2").tofile(folder / "test.bin")
    gpt = make_gpt(context_length=16)
    found = measure(gpt, encoding, folder, tmp_path)

    parts = np.split(tokens[1:], np.flatnonzero(tokens[1:-1] == end) + 1)
    sizes = [len(encoding.decode(part[part != end].tolist()).encode()) for part in parts]
    starts = np.cumsum([0, *map(len, parts[:-1])])
    losses = token_losses(gpt, tokens, [overlapping(len(tokens), 16)], context_length=16, compute=CPU)
    nats = np.add.reduceat(losses, starts)
    low, high = interval(share, nats / math.log(2), np.array(sizes))
    assert [found["bits_per_byte_low"], found["bits_per_byte_high"]] == pytest.approx([low, high])
    assert low < found["bits_per_byte"] < high

    gain = found["baseline_bits_per_byte"] - found["bits_per_byte"]
    assert found["bits_per_byte_gain"] == pytest.approx(gain)
    assert found["bits_per_byte_gain_low"] < gain < found["bits_per_byte_gain_high"] < 0


@pytest.mark.parametrize("prompt", ["", "the cat " * 64])
def test_a_prompt_that_can_not_be_continued_is_named_before_anything_is_measured(
    make_gpt, encoding, token_files, tmp_path, prompt
):
    params = PARAMS.model_copy(update={"sample_prompts": ("the cat", prompt)})
    with pytest.raises(UserError, match=r"^sample prompt '.*: \d+ tokens, of 1 to 63$"):
        measure(make_gpt(context_length=64), encoding, token_files, tmp_path, params)
    assert not list(tmp_path.glob("*.csv"))


def test_the_baselines_predict_the_same_text_after_the_training_text(measured, encoding, token_files, tmp_path):
    train, validation, test = (tokens_of(token_files, split) for split in ("train", "validation", "test"))
    text = encoding.decode(test[1:].tolist()).replace("<|endoftext|>", "\0").encode()
    size = len(text) - text.count(b"\0")

    ngrams = baselines.best_ngrams(train, validation, encoding.n_vocab)
    found = ngrams.probabilities(np.array([test[0]] * (ngrams.order - 2) + [*test]))
    assert measured["ngram_bits_per_byte"] == pytest.approx(-np.log2(found).sum() / size)
    assert measured["ngram_order"] == ngrams.order

    before = baselines.as_bytes(encoding, train)
    compressed = [
        pyppmd.Ppmd7Encoder(baselines.PPMD_ORDER, baselines.PPMD_MEMORY) for _ in range(2)
    ]  # the training text alone, then both
    alone, both = (
        len(encoder.encode(content)) + len(encoder.flush())
        for encoder, content in zip(compressed, (before, before + text), strict=True)
    )
    assert measured["ppmd_bits_per_byte"] == pytest.approx((both - alone) * 8 / size, abs=10 * 8 / size)

    bits = baselines.cached_bits(ngrams, validation, test, end=end_of_text(encoding))
    assert measured["ngram_cache_bits_per_byte"] == pytest.approx(bits.sum() / size)

    names = ("bits_per_byte", "ngram_bits_per_byte", "ngram_cache_bits_per_byte", "ppmd_bits_per_byte")
    assert measured["baseline_bits_per_byte"] == min(measured[name] for name in names[1:])
    table = pd.read_csv(tmp_path / "baselines.csv")
    assert table["bits_per_byte"].tolist() == [round(measured[name], 4) for name in names]
    assert table["model"].tolist()[:2] == ["foundation", f"n-grams of {ngrams.order}, modified Kneser-Ney"]


def test_a_text_that_was_learned_costs_ppmd_less_and_one_out_of_reach_costs_as_much(monkeypatch):
    rng = np.random.default_rng(1)
    text, other = (rng.integers(32, 127, 4000).astype(np.uint8).tobytes() for _ in range(2))
    known, unknown = baselines.ppmd_bits(text, text), baselines.ppmd_bits(other, text)
    assert known < unknown / 10
    monkeypatch.setattr(baselines, "PPMD_BYTES", len(other))
    assert baselines.ppmd_bits(text + other, text) == unknown


def test_the_worst_windows_come_first(measured, losses, tmp_path):
    lines = (tmp_path / "errors.md").read_text().splitlines()
    parts = np.split(losses, range(64, len(losses), 32))
    means = [part.mean() for part in parts]
    order = np.argsort(means)[::-1]
    assert [line.split("**")[1] for line in lines if line.startswith("**")] == [f"window {row}" for row in order[:10]]
    assert f"{max(means):.4f} nats a token" in lines[2]
    assert lines[4].startswith("> ")


def test_a_single_document_has_no_interval(make_gpt, encoding, token_files, tmp_path):
    folder = shutil.copytree(token_files, tmp_path / "short")
    tokens_of(folder, "test")[:65].astype("<u2").tofile(folder / "test.bin")
    meta = json.loads((folder / "meta.json").read_text())
    meta["splits"]["test"]["tokens"] = 65
    (folder / "meta.json").write_text(json.dumps(meta))
    found = measure(make_gpt(context_length=64), encoding, folder, tmp_path)
    assert "bits_per_byte" in found
    assert not [name for name in found if name.endswith(("_low", "_high"))]
