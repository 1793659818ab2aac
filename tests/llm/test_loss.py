import math

import pytest
import torch

from llm.loss import IGNORE, bits_per_byte, next_token_loss


def test_cross_entropy_by_hand_over_the_targets_that_count():
    logits = torch.tensor([[[0.0, 0.0, 0.0, 0.0], [math.log(3), 0.0, -math.inf, -math.inf], [9.0, 0.0, 0.0, 0.0]]])
    targets = torch.tensor([[2, 1, IGNORE]])
    by_hand = -math.log(1 / 4) - math.log(1 / 4)
    assert next_token_loss(logits, targets, "sum").item() == pytest.approx(by_hand)
    assert next_token_loss(logits, targets).item() == pytest.approx(by_hand / 2)


def test_the_loss_is_float32_whatever_the_logits_are():
    logits = torch.randn(2, 3, 5, dtype=torch.bfloat16)
    assert next_token_loss(logits, torch.zeros(2, 3, dtype=torch.int64)).dtype == torch.float32


def test_bits_per_byte_by_hand():
    # 10 tokens at ln 16 nats are 40 bits; they stand for 20 bytes
    assert bits_per_byte(math.log(16), 10, 20) == pytest.approx(2.0)
    assert bits_per_byte(math.log(256), 1, 1) == pytest.approx(8.0)
