"""How wrong the model is: cross-entropy in nats a token, and bits per byte, which no tokenizer can flatter."""

import math

from torch import Tensor
from torch.nn import functional as F

IGNORE = -100  # a target that does not count


def next_token_loss(logits_BTV: Tensor, targets_BT: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy in nats over the targets that are not IGNORE; `reduction` is `mean` or `sum`."""
    return F.cross_entropy(
        logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), ignore_index=IGNORE, reduction=reduction
    )


def bits_per_byte(loss: float, tokens: int, byte_count: int) -> float:
    """From nats a token to bits a byte of the text that `tokens` tokens stand for."""
    return loss * tokens / byte_count / math.log(2)
