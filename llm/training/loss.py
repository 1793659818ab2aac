"""The loss of a language model: how improbable the true next tokens were.

Tensor names end in their shape: N tokens, C width of the model, V vocabulary, R tokens of a piece.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

PIECE = 256  # tokens whose logits exist at a time: those of a whole batch are V wide, and fill the memory


def linear_cross_entropy(x_NC: Tensor, weight_VC: Tensor, targets_N: Tensor) -> Tensor:
    """Sum over the tokens of -log p(target), in nats, where p is the softmax of the logits `x weightᵀ`.

    Under autocast the products are in its dtype, the sums in float32. Raises IndexError for a target that is no token.
    """
    losses = []
    for x_RC, targets_R in zip(x_NC.split(PIECE), targets_N.split(PIECE), strict=True):
        logits_RV = F.linear(x_RC, weight_VC).float()
        losses.append(F.cross_entropy(logits_RV, targets_R, reduction="sum"))
    return torch.stack(losses).sum()


def bits_per_byte(loss: float, tokens: int, byte_count: int) -> float:
    """From nats a token to bits a byte of the text that `tokens` tokens stand for: no tokenizer can flatter these."""
    return loss * tokens / byte_count / math.log(2)
