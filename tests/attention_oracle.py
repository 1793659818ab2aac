"""Causal attention by the formula, and its gradients: the oracle of attention kernels."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from llm.model.attention import attention, causal


def by_formula(q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor) -> Tensor:
    """The formula, with a copy of keys and values for each head of queries."""
    copies = q_BHTD.shape[1] // k_BKTD.shape[1]
    k_BHTD = k_BKTD.repeat_interleave(copies, dim=1)
    v_BHTD = v_BKTD.repeat_interleave(copies, dim=1)
    return attention(q_BHTD, k_BHTD, v_BHTD, visible_TS=causal(q_BHTD.shape[2]))


def with_gradients(
    kernel: Callable[..., Tensor], inputs: Sequence[Tensor], upstream_BHTD: Tensor, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """The output and the three gradients."""
    leaves = [part.to(dtype).detach().requires_grad_() for part in inputs]
    y_BHTD = kernel(*leaves)
    y_BHTD.backward(upstream_BHTD.to(y_BHTD.dtype))
    return [y_BHTD.detach(), *(part.grad for part in leaves)]
