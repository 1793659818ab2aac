"""Muon's update in C against torch's."""

import pytest
import torch
from processors import needs_registers

from llm.kernels.training.backend import MuonMatrix, MuonRates, MuonUpdate
from llm.kernels.training.muon import muon_in_c
from llm.training.optim import Muon, update_matrices

SHAPES = [(128, 64), (64, 64), (64, 192)]
STACKED, ROWS = (256, 128), (128, 64, 64)  # queries, keys and values


def learned(update: MuonUpdate, threads: int) -> list[torch.Tensor]:
    """Weights, momenta and averages of squares after three updates, all in one list."""
    draw = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(shape, generator=draw)) for shape in (*SHAPES, STACKED)]
    groups = [{"params": weights[:-1]}, {"params": weights[-1:], "rows": ROWS}]
    optimizer = Muon(groups, lr=0.1, weight_decay=0.1, update=update)
    torch.set_num_threads(threads)
    try:
        for _ in range(3):
            for weight in weights:
                weight.grad = torch.randn(weight.shape[::-1], generator=draw).T  # as a product may give it
                weight.grad[3] = 0  # as of an input that stays silent
            optimizer.step()
    finally:
        torch.set_num_threads(1)
    states = [optimizer.state[weight][name] for name in ("momentum", "squares") for weight in weights]
    return [weight.detach() for weight in weights] + states


@needs_registers
def test_muon_in_c_learns_as_in_torch_whatever_the_threads():
    expected = learned(update_matrices, 1)
    found, *others = (learned(muon_in_c, threads) for threads in (1, 2, 7))
    count = len(SHAPES) + 1
    for ours, theirs in zip(found[:count], expected[:count], strict=True):
        assert (ours - theirs).norm() < 0.01 * theirs.norm()
    assert not torch.equal(found[1], expected[1])
    momenta, squares = slice(count, 2 * count), slice(2 * count, None)
    for ours, theirs in zip(found[momenta], expected[momenta], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    for ours, theirs in zip(found[squares], expected[squares], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0.02)
    for other in others:
        assert all(torch.equal(*pair) for pair in zip(found, other, strict=True))


@pytest.mark.parametrize("weight", [torch.zeros(64, 96), torch.zeros(64, 64).bfloat16(), torch.zeros(128, 64).T])
def test_matrices_that_muon_c_does_not_take_are_refused(weight):
    with pytest.raises(ValueError, match=r"muon.c needs contiguous float32 and multiples of 64"):
        muon_in_c([MuonMatrix(weight, weight, weight[:, :1], (len(weight),))], MuonRates(0.1, 0.1))
