import json
import math
import shutil

import numpy as np
import pandas as pd
import pyppmd
import pytest
import torch
from torch.nn import functional as F

from llm.dataset import TokenWindows
from llm.device import Compute
from llm.errors import UserError
from llm.tokenizer import end_of_text, token_bytes
from tasks.evaluation import foundation
from tasks.evaluation.kneser_ney import KneserNey

CPU = Compute(torch.device("cpu"), torch.float32, "a test")
PARAMS = foundation.Evaluate(batch_size=3, sample_prompts=("the cat",), sample_tokens=8, seed=1)


def tokens_of(folder, split):
    return np.fromfile(folder / f"{split}.bin", "<u2").astype("int64")


@pytest.fixture
def measured(make_gpt, encoding, token_files, tmp_path):
    return foundation.measure(make_gpt(context_length=64), encoding, token_files, None, PARAMS, CPU, tmp_path)


@pytest.fixture
def losses(make_gpt, token_files):
    """Of each whole window of the test file, one at a time."""
    gpt, tokens = make_gpt(context_length=64), tokens_of(token_files, "test")
    rows = [torch.tensor(tokens[64 * i : 64 * i + 65]) for i in range((len(tokens) - 1) // 64)]
    return [F.cross_entropy(gpt(row[None, :-1])[0], row[1:]).item() for row in rows]


def test_the_foundation_is_measured_on_every_window_of_the_test_file(
    measured, losses, make_gpt, encoding, token_files, tmp_path
):
    assert len(losses) == 3
    assert measured["test_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert measured["perplexity"] == pytest.approx(math.exp(measured["test_loss"]))
    evidence = {path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()}
    assert evidence["samples.md"].startswith("# Samples of the foundation\n\n> the cat")
    again = foundation.measure(make_gpt(context_length=64), encoding, token_files, None, PARAMS, CPU, tmp_path)
    assert again == measured
    assert {name: (tmp_path / name).read_text() for name in evidence} == evidence


def test_bits_per_byte_are_the_bits_of_the_predicted_tokens_over_their_own_bytes(
    measured, losses, encoding, token_files
):
    tokens, end = tokens_of(token_files, "test")[1 : 3 * 64 + 1], end_of_text(encoding)
    assert end in tokens  # which a byte of no text stands for
    size = sum(len(token_bytes(encoding, token)) for token in tokens.tolist() if token != end)
    assert measured["bits_per_byte"] == pytest.approx(sum(losses) * 64 / size / math.log(2), rel=1e-5)


def test_the_lead_over_the_better_baseline_is_paired_by_window(make_gpt, encoding, token_files, tmp_path, monkeypatch):
    monkeypatch.setattr(foundation, "PPMD_BYTES", 1)  # of so little it learns nothing
    found = foundation.measure(make_gpt(context_length=16), encoding, token_files, None, PARAMS, CPU, tmp_path)
    assert found["bits_per_byte_low"] < found["bits_per_byte"] < found["bits_per_byte_high"]
    gain = found["baseline_bits_per_byte"] - found["bits_per_byte"]
    assert found["bits_per_byte_gain"] == pytest.approx(gain)
    assert found["ngram_bits_per_byte"] < found["ppmd_bits_per_byte"]
    assert found["bits_per_byte_gain_low"] < gain < found["bits_per_byte_gain_high"] < 0


@pytest.mark.parametrize("prompt", ["", "the cat " * 64])
def test_a_prompt_that_can_not_be_continued_is_named_before_anything_is_measured(
    make_gpt, encoding, token_files, tmp_path, prompt
):
    params = PARAMS.model_copy(update={"sample_prompts": ("the cat", prompt)})
    with pytest.raises(UserError, match=r"^sample prompt '.*: \d+ tokens, of 1 to 63$"):
        foundation.measure(make_gpt(context_length=64), encoding, token_files, None, params, CPU, tmp_path)
    assert not list(tmp_path.glob("*.csv"))


def test_losses_by_window_are_those_of_a_window_alone(losses, make_gpt, token_files):
    windows = TokenWindows(token_files, "test", 64)
    found, targets = foundation.window_losses(
        make_gpt(context_length=64), windows, [np.array([2]), np.array([0, 1])], CPU
    )
    assert found == pytest.approx([losses[2], losses[0], losses[1]], rel=1e-5)
    assert targets[1].tolist() == tokens_of(token_files, "test")[1:65].tolist()


def test_the_baselines_predict_the_same_text_after_the_training_text(measured, encoding, token_files, tmp_path):
    train, test = tokens_of(token_files, "train"), tokens_of(token_files, "test")[: 3 * 64 + 1]
    text = encoding.decode(test[1:].tolist()).replace("<|endoftext|>", "\0").encode()
    size = len(text) - text.count(b"\0")

    found = KneserNey(train, encoding.n_vocab).probabilities(np.array([test[0], *test]))
    assert measured["ngram_bits_per_byte"] == pytest.approx(-np.log2(found).sum() / size)

    before = foundation.as_bytes(encoding, train)
    compressed = [
        pyppmd.Ppmd7Encoder(foundation.PPMD_ORDER, foundation.PPMD_MEMORY) for _ in range(2)
    ]  # the training text alone, then both
    alone, both = (
        len(encoder.encode(content)) + len(encoder.flush())
        for encoder, content in zip(compressed, (before, before + text), strict=True)
    )
    assert measured["ppmd_bits_per_byte"] == pytest.approx((both - alone) * 8 / size, abs=10 * 8 / size)

    better = min(measured["ngram_bits_per_byte"], measured["ppmd_bits_per_byte"])
    assert measured["baseline_bits_per_byte"] == better
    table = pd.read_csv(tmp_path / "baselines.csv")
    names = ("bits_per_byte", "ngram_bits_per_byte", "ppmd_bits_per_byte")
    assert table["bits_per_byte"].tolist() == [round(measured[name], 4) for name in names]
    assert table["model"][0] == "foundation"


def test_a_text_that_was_learned_costs_ppmd_less_and_one_out_of_reach_costs_as_much(monkeypatch):
    rng = np.random.default_rng(1)
    text, other = (rng.integers(32, 127, 4000).astype(np.uint8).tobytes() for _ in range(2))
    known, unknown = foundation.ppmd_bits(text, text), foundation.ppmd_bits(other, text)
    assert known < unknown / 10
    monkeypatch.setattr(foundation, "PPMD_BYTES", len(other))
    assert foundation.ppmd_bits(text + other, text) == unknown


def test_the_worst_windows_come_first(measured, losses, tmp_path):
    lines = (tmp_path / "errors.md").read_text().splitlines()
    order = np.argsort(losses)[::-1]
    assert [line.split("**")[1] for line in lines if line.startswith("**")] == [f"window {row}" for row in order]
    assert f"{max(losses):.4f} nats a token" in lines[2]
    assert lines[4].startswith("> ")


def test_a_single_window_has_no_interval(make_gpt, encoding, token_files, tmp_path):
    folder = shutil.copytree(token_files, tmp_path / "short")
    tokens_of(folder, "test")[:65].astype("<u2").tofile(folder / "test.bin")
    meta = json.loads((folder / "meta.json").read_text())
    meta["splits"]["test"]["tokens"] = 65
    (folder / "meta.json").write_text(json.dumps(meta))
    found = foundation.measure(make_gpt(context_length=64), encoding, folder, None, PARAMS, CPU, tmp_path)
    assert "bits_per_byte" in found
    assert not [name for name in found if name.endswith(("_low", "_high"))]
