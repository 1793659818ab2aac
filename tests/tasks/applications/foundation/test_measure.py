import math
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from llm.device import Compute
from llm.errors import UserError
from llm.loaded_model import LoadedModel
from llm.tokenizer import end_of_text, token_bytes, train_bpe
from tasks.applications.foundation.measure import (
    EVALUATION,
    Evaluate,
    overlapping,
    read_tokens,
    token_losses,
)
from tasks.applications.foundation.ngrams import count_ngrams
from tasks.measures.description import Subject
from tasks.measures.evaluate import measure_and_write
from tasks.measures.intervals import interval, share

CPU = Compute(torch.device("cpu"), torch.float32, "a test")
PARAMS = Evaluate(batch_size=3, sample_prompts=("the cat",), sample_tokens=8, seed=1)


def tokens_of(folder, split):
    return np.fromfile(folder / f"{split}.bin", "<u2").astype("int64")


def measure(loaded, data, evidence, params=PARAMS):
    """The metrics of a foundation on a folder of token files."""
    subject = Subject(
        loaded=loaded,
        data=data,
        base=None,
        params=params,
        compute=CPU,
        evidence=evidence,
    )
    return measure_and_write(EVALUATION, subject)


@pytest.fixture
def measured(make_gpt, encoding, token_files, tmp_path):
    return measure(LoadedModel(make_gpt(context_length=64), encoding), token_files, tmp_path)


@pytest.fixture
def losses(make_gpt, token_files):
    """Nats of each token of the test file but the first, one at a time: after the 64 before it, or fewer, so that none
    has less than it has in windows that overlap."""
    gpt = make_gpt(context_length=64)
    tokens = torch.tensor(tokens_of(token_files, "test"))
    nats = []
    for number in range(1, len(tokens)):
        start = max(0, (number - 33) // 32 * 32)  # windows begin at every 32nd token
        start = min(start, max(0, len(tokens) - 65))  # the last ends with the file
        logits = gpt(tokens[None, start:number])[0, -1:]
        nats.append(F.cross_entropy(logits, tokens[number : number + 1]).item())
    return np.array(nats)


def test_evaluation_predicts_every_token_after_half_a_context_at_least_and_repeats_its_bytes(
    measured, losses, make_gpt, encoding, token_files, tmp_path
):
    assert len(losses) % 32  # the last window is not like the others
    assert measured["test_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert measured["perplexity"] == pytest.approx(math.exp(measured["test_loss"]))
    evidence = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert evidence["samples.md"].startswith(b"# Samples of the foundation\n\n> the cat")
    again = measure(LoadedModel(make_gpt(context_length=64), encoding), token_files, tmp_path)
    assert again == measured
    assert {name: (tmp_path / name).read_bytes() for name in evidence} == evidence


def test_bits_per_byte_are_the_bits_of_the_predicted_tokens_over_their_own_bytes(
    measured, losses, encoding, token_files
):
    tokens = tokens_of(token_files, "test")[1:]
    end = end_of_text(encoding)
    assert end in tokens  # which a byte of no text stands for
    size = sum(len(token_bytes(encoding, token)) for token in tokens.tolist() if token != end)
    assert measured["bits_per_byte"] == pytest.approx(losses.sum() / size / math.log(2), rel=1e-5)


def targets(window, context_length):
    """The numbers of the tokens that a window scores."""
    return range(window.start + window.scored + 1, window.start + context_length + 1)


@given(st.integers(2, 300), st.integers(1, 70))
def test_windows_score_each_token_once_after_half_a_context_at_least(tokens, context_length):
    context_length = min(context_length, tokens - 1)
    windows = overlapping(tokens, context_length)
    scored = [number for window in windows for number in targets(window, context_length)]
    assert scored == [*range(1, tokens)]
    assert all(window.scored + 1 > context_length / 2 for window in windows[1:])
    assert len(windows) <= 2 * tokens / context_length + 2  # which bounds the cost


def test_intervals_are_over_documents_and_that_of_the_lead_is_paired(make_gpt, encoding, token_files, tmp_path):
    folder = shutil.copytree(token_files, tmp_path / "documents")
    tokens = tokens_of(folder, "test")
    end = end_of_text(encoding)
    tokens[19::20] = end
    tokens.astype("<u2").tofile(folder / "test.bin")
    gpt = make_gpt(context_length=16)
    metrics = measure(LoadedModel(gpt, encoding), folder, tmp_path)
    losses = token_losses(gpt, tokens, [overlapping(len(tokens), 16)], context_length=16, compute=CPU)
    numbers = np.cumsum(tokens[1:] == end) - (tokens[1:] == end)
    bits = np.bincount(numbers, losses) / math.log(2)
    lengths = [0 if token == end else len(token_bytes(encoding, token)) for token in tokens[1:].tolist()]
    low, high = interval(share, bits, np.bincount(numbers, lengths))
    assert [metrics["bits_per_byte_low"], metrics["bits_per_byte_high"]] == pytest.approx([low, high])
    gain = metrics["baseline_bits_per_byte"] - metrics["bits_per_byte"]
    assert metrics["bits_per_byte_gain"] == pytest.approx(gain)
    assert metrics["bits_per_byte_gain_low"] < gain < metrics["bits_per_byte_gain_high"] < 0


@pytest.mark.parametrize("prompt", ["", "the cat " * 64])
def test_prompt_without_room_for_a_continuation_is_refused_before_anything_is_measured(
    make_gpt, encoding, token_files, tmp_path, prompt
):
    params = PARAMS.model_copy(update={"sample_prompts": ("the cat", prompt)})
    with pytest.raises(UserError, match=r"^sample prompt '.*: \d+ tokens, of 1 to 63$"):
        measure(LoadedModel(make_gpt(context_length=64), encoding), token_files, tmp_path, params=params)
    assert not list(tmp_path.glob("*.md"))


def test_baseline_predicts_the_same_text_by_n_grams_of_the_training_text(measured, encoding, token_files):
    test = tokens_of(token_files, "test")
    text = encoding.decode(test[1:].tolist()).replace("<|endoftext|>", "\0").encode()
    size = len(text) - text.count(b"\0")
    probabilities = count_ngrams(tokens_of(token_files, "train"), encoding.n_vocab).probabilities(test)[1:]
    assert measured["baseline_bits_per_byte"] == pytest.approx(-np.log2(probabilities).sum() / size)


def test_text_is_read_by_the_models_own_tokenizer(encoding, token_files):
    own = train_bpe(["the cat sat on the mat"], 262)
    tokens = read_tokens(token_files, "test", own)
    text = encoding.decode(read_tokens(token_files, "test", encoding).tolist())
    assert own.decode(tokens.tolist()) == text
    assert len(tokens) > len(tokens_of(token_files, "test"))


def test_errors_list_the_worst_windows_first(measured, losses, tmp_path):
    lines = (tmp_path / "errors.md").read_text().splitlines()
    parts = np.split(losses, range(64, len(losses), 32))
    means = [part.mean() for part in parts]
    order = np.argsort(means)[::-1]
    assert [line.split("**")[1] for line in lines if line.startswith("**")] == [f"window {row}" for row in order[:10]]
    assert f"{max(means):.4f} nats a token" in lines[2]
    assert lines[4].startswith("> ")
