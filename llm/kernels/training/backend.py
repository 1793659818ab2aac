"""What a model computes with: torch's own operations, or kernels in their place."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, Self

from torch import Tensor, nn
from torch.nn import functional as F

from llm.kernels.training.cross_entropy import linear_cross_entropy_with_gradients
from llm.kernels.training.packed_sequences import PackedSequences

CrossEntropy = Callable[[Tensor, Tensor, Tensor], Tensor]


class Attention(Protocol):
    """Causal attention of packed texts or of whole rows, with a share of dropout."""

    def __call__(
        self,
        q_BHTD: Tensor,
        k_BKTD: Tensor,
        v_BKTD: Tensor,
        packed: PackedSequences | None = None,
        dropout: float = 0.0,
    ) -> Tensor:
        """The weighted values of each head, BHTD."""
        ...


@dataclass(frozen=True)
class MuonMatrix:
    """A weight that Muon updates by its gradient, and what Muon remembers of it."""

    weight_RC: Tensor
    gradient_RC: Tensor
    momentum_RC: Tensor
    """The average of its gradients."""
    squares_R1: Tensor
    """The average, for each row, of the mean square of its updates."""
    rows: tuple[int, ...]
    """How many rows each of the matrices has that it holds one below the other, as queries, keys and values are."""


@dataclass(frozen=True)
class MuonRates:
    """What an update by Muon is computed with."""

    learning_rate: float
    weight_decay: float
    momentum: float = 0.9
    beta2: float = 0.9
    """The share that the average of squares keeps."""


MuonUpdate = Callable[[Sequence[MuonMatrix], MuonRates], None]


def causal_attention(
    q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, packed: PackedSequences | None = None, dropout: float = 0.0
) -> Tensor:
    """Causal attention by torch's fused kernel, BHTD; consecutive heads of queries share one of keys and values."""
    if packed is not None:
        return packed.attention(q_BHTD, k_BKTD, v_BKTD, attend=partial(causal_attention, dropout=dropout))
    shared = q_BHTD.shape[1] != k_BKTD.shape[1]
    return F.scaled_dot_product_attention(q_BHTD, k_BKTD, v_BKTD, is_causal=True, dropout_p=dropout, enable_gqa=shared)


@dataclass(frozen=True)
class Backend:
    """The operations that a training may replace; by default they are torch's. llm/kernels/training/choose.py chooses.

    llm/training/backend.py builds the model that learns by them. Evaluation and generation are computed by torch.
    """

    attention: Attention = causal_attention
    """Causal attention from queries, keys and values."""
    cross_entropy: CrossEntropy = linear_cross_entropy_with_gradients
    """The sum of the cross-entropy from the stream, the output layer's weights and the targets."""
    muon_update: MuonUpdate | None = None
    """Muon's update, in place, of matrices with gradients. None leaves it to llm/training/optim.py."""
    frozen_linear: Callable[[nn.Linear, Tensor], nn.Module] | None = None
    """Makes a faster layer of one that LoRA freezes, from it and the largest magnitude of each input; None keeps it."""
    block: Callable[[nn.Module], nn.Module] | None = None
    """Makes a faster block with the layers of a block; None keeps the block."""
    fallback: Self | None = None
    """A backend that takes over where the compiler fails; None for a backend that compiles nothing."""
    name: str = "eager"
    """How the run's record names it."""

    @property
    def compiles(self) -> bool:
        """Whether blocks are compiled. Batches should then all have one shape."""
        return self.fallback is not None

    @property
    def in_int8(self) -> bool:
        """Whether layers multiply 8-bit integers."""
        return self.frozen_linear is not None


TORCH = Backend()
