"""Muon's update in C against torch's."""

import pytest
import torch
from processors import needs_registers

from llm.kernels.training.muon import muon_in_c
from llm.training.optim import Muon, MuonUpdate, update_matrices

SHAPES = [(128, 64), (64, 64), (64, 192)]


def learned(update: MuonUpdate, threads: int) -> list[torch.Tensor]:
    """Weights and momenta after three updates, all in one list."""
    draw = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(shape, generator=draw)) for shape in SHAPES]
    optimizer = Muon(weights, lr=0.1, weight_decay=0.1, update=update)
    torch.set_num_threads(threads)
    try:
        for _ in range(3):
            for weight in weights:
                weight.grad = torch.randn(weight.shape[::-1], generator=draw).T  # as a product may give it
            optimizer.step()
    finally:
        torch.set_num_threads(1)
    return [weight.detach() for weight in weights] + [optimizer.state[weight]["momentum"] for weight in weights]


@needs_registers
def test_muon_in_c_learns_as_in_torch_whatever_the_threads():
    expected = learned(update_matrices, 1)
    found, *others = (learned(muon_in_c, threads) for threads in (1, 2, 7))
    for ours, theirs in zip(found[:3], expected[:3], strict=True):
        assert (ours - theirs).norm() < 0.01 * theirs.norm()
    assert not torch.equal(found[1], expected[1])
    for ours, theirs in zip(found[3:], expected[3:], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    for other in others:
        assert all(torch.equal(*pair) for pair in zip(found, other, strict=True))


@pytest.mark.parametrize("weight", [torch.zeros(64, 96), torch.zeros(64, 64).bfloat16(), torch.zeros(128, 64).T])
def test_matrices_that_muon_c_does_not_take_are_refused(weight):
    with pytest.raises(ValueError, match=r"muon.c needs contiguous float32 and multiples of 64"):
        muon_in_c([weight], [weight], 0.9, 1.0, 0.1)
