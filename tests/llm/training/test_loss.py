import math

import pytest
import torch
from torch.nn import functional as F

from llm.training.loss import PIECE, bits_per_byte, linear_cross_entropy


@pytest.mark.parametrize("tokens", [0, 1, PIECE, 2 * PIECE + 3])
def test_loss_in_pieces_is_that_of_all_logits_at_once(tokens):
    draw = torch.Generator().manual_seed(0)
    x_NC = torch.randn(tokens, 16, generator=draw).requires_grad_()
    weight_VC = torch.randn(50, 16, generator=draw).requires_grad_()
    targets_N = torch.randint(50, (tokens,), generator=draw)
    expected = F.cross_entropy(x_NC.double() @ weight_VC.double().T, targets_N, reduction="sum")
    expected_gradients = torch.autograd.grad(expected, (x_NC, weight_VC))
    loss = linear_cross_entropy(x_NC, weight_VC, targets_N)
    gradients = torch.autograd.grad(loss, (x_NC, weight_VC))
    torch.testing.assert_close((loss.double(), *gradients), (expected, *expected_gradients), rtol=1e-4, atol=1e-4)


def test_loss_rejects_a_target_that_is_no_token_and_is_finite_for_an_impossible_one():
    with pytest.raises(IndexError, match="Target 50 is out of bounds"):
        linear_cross_entropy(torch.zeros(3, 4), torch.zeros(50, 4), torch.tensor([0, 50, 1]))
    assert linear_cross_entropy(torch.tensor([[400.0]]), torch.tensor([[1.0], [0.0]]), torch.tensor([1])) == 400


def test_bits_per_byte_by_hand():
    # 10 tokens at ln 16 nats are 40 bits; they stand for 20 bytes
    assert bits_per_byte(math.log(16), 10, 20) == pytest.approx(2.0)
