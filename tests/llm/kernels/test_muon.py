"""Muon's update in C against torch's."""

from typing import NamedTuple

import pytest
import torch
from processors import needs_registers, threads
from torch import Tensor

from llm.kernels.training.backend import MuonMatrix, MuonRates, MuonUpdate
from llm.kernels.training.muon import muon_in_c
from llm.training.optim import Muon, update_matrices

SHAPES = [(128, 64), (64, 64), (64, 192)]
STACKED, ROWS = (256, 128), (128, 64, 64)  # queries, keys and values


class Learned(NamedTuple):
    """What Muon made of some matrices."""

    weights: list[Tensor]
    momenta: list[Tensor]
    squares: list[Tensor]


def learn(update: MuonUpdate, count: int = 1) -> Learned:
    """Three updates."""
    draw = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(shape, generator=draw)) for shape in (*SHAPES, STACKED)]
    groups = [{"params": weights[:-1]}, {"params": weights[-1:], "rows": ROWS}]
    optimizer = Muon(groups, lr=0.1, weight_decay=0.1, update=update)
    with threads(count):
        for _ in range(3):
            for weight in weights:
                weight.grad = torch.randn(weight.shape[::-1], generator=draw).T  # as a product may give it
                weight.grad[3] = 0  # as of an input that stays silent
            optimizer.step()
    return Learned(
        weights=[weight.detach() for weight in weights],
        momenta=[optimizer.state[weight]["momentum"] for weight in weights],
        squares=[optimizer.state[weight]["squares"] for weight in weights],
    )


@needs_registers
def test_muon_in_c_learns_as_in_torch():
    expected = learn(update_matrices)
    learned = learn(muon_in_c)
    for weight, oracle in zip(learned.weights, expected.weights, strict=True):
        assert (weight - oracle).norm() < 0.01 * oracle.norm()
    assert not torch.equal(learned.weights[1], expected.weights[1])
    torch.testing.assert_close(learned.momenta, expected.momenta, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(learned.squares, expected.squares, atol=1e-5, rtol=0.02)


@needs_registers
@pytest.mark.parametrize("count", [2, 7])
def test_bits_of_muon_in_c_do_not_depend_on_threads(count):
    torch.testing.assert_close(learn(muon_in_c, count), learn(muon_in_c), rtol=0, atol=0)


@pytest.mark.parametrize("weight", [torch.zeros(64, 96), torch.zeros(64, 64).bfloat16(), torch.zeros(128, 64).T])
def test_matrices_that_muon_c_does_not_take_are_refused(weight):
    matrix = MuonMatrix(
        weight_RC=weight, gradient_RC=weight, momentum_RC=weight, squares_R1=weight[:, :1], rows=(len(weight),)
    )
    with pytest.raises(ValueError, match=r"muon.c needs contiguous float32 and multiples of 64"):
        muon_in_c([matrix], MuonRates(learning_rate=0.1, weight_decay=0.1))
