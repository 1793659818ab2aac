import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from llm.device import Compute
from tasks.evaluation import foundation

CPU = Compute(torch.device("cpu"), torch.float32, "a test")


def test_the_foundation_is_measured_on_every_window_of_the_test_file(make_gpt, encoding, token_files, tmp_path):
    gpt = make_gpt(context_length=64)
    params = foundation.Evaluate(batch_size=3, sample_prompts=("the cat",), sample_tokens=8, seed=1)
    found = foundation.measure(gpt, encoding, token_files, None, params, CPU, tmp_path)
    tokens = np.fromfile(token_files / "test.bin", "<u2").astype("int64")
    count = (len(tokens) - 1) // 64
    losses = [
        F.cross_entropy(gpt(row[None, :-1])[0], row[1:]).item()
        for row in (torch.tensor(tokens[64 * i : 64 * i + 65]) for i in range(count))
    ]
    assert count == 3
    assert found["test_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(found["test_loss"]))
    text = (tmp_path / "samples.md").read_text()
    assert text.startswith("# Samples of the foundation\n\n> the cat")
    foundation.measure(gpt, encoding, token_files, None, params, CPU, tmp_path)
    assert (tmp_path / "samples.md").read_text() == text
