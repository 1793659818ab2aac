"""A linear support vector machine over two views of a text: hashed n-grams, which are sparse, and a GPT's states."""

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

STRENGTH = 1.0
"""What the loss of a text weighs against half the square of all weights; scikit-learn's C."""


class Sparse(NamedTuple):
    """A sparse matrix of texts and its transpose, which autograd would make anew for each gradient.

    Its columns, U, are those of the features, V, that some text has.
    """

    texts_NU: Tensor
    texts_UN: Tensor
    features_U: Tensor

    @classmethod
    def of(cls, features: Tensor, values: Tensor, starts: Tensor) -> "Sparse":
        """From the features of all texts in a row with their values, and where each text begins."""
        known_U, columns = features.unique(return_inverse=True)
        ends = torch.cat([starts, torch.tensor([len(columns)])])
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # that torch calls this form a beta
            rows = torch.sparse_csr_tensor(ends, columns, values.double(), (len(starts), len(known_U)))
            return cls(rows, rows.t().to_sparse_csr(), known_U)


class Weights(NamedTuple):
    """Float64: of the sparse features, U x K, of the dense ones, C x K, and a bias, K."""

    sparse_UK: Tensor
    dense_CK: Tensor
    bias_K: Tensor

    def logits(self, texts: Sparse, dense_NC: Tensor) -> Tensor:
        """N x K."""
        return texts.texts_NU @ self.sparse_UK + dense_NC @ self.dense_CK + self.bias_K


def fit(
    texts: Sparse, dense_NC: Tensor, labels: Tensor, counts: Tensor, classes: int, tolerance: float = 1e-7
) -> Weights:
    """Learn labels, N, of texts, each of which counts so much, float64 N: 0 leaves one out.

    The loss is the squared hinge (Chang et al. 2008), of each label against the others. Texts that are well on their
    side cost nothing, so the hard ones decide. Of two labels the difference of the logits is the margin.

    By L-BFGS in float64 until no gradient is above `tolerance`: the best weights are the same on every machine, those
    on the way to them are not, and texts near a bound would be on its other side elsewhere.
    """
    sought_labels_J = torch.arange(1, 2) if classes == 2 else torch.arange(classes)
    signs_NJ = torch.where(labels[:, None] == sought_labels_J, 1.0, -1.0).double()
    columns = len(sought_labels_J)
    shapes = (len(texts.features_U), columns), (dense_NC.shape[1], columns), (columns,)
    sought = Weights(*(torch.zeros(shape, dtype=torch.double, requires_grad=True) for shape in shapes))
    search = torch.optim.LBFGS(
        sought,
        max_iter=1000,
        tolerance_grad=tolerance,
        tolerance_change=0.0,
        history_size=10,
        line_search_fn="strong_wolfe",
    )
    total = counts.sum()

    @torch.no_grad()
    def loss() -> Tensor:
        short_NJ = (1 - signs_NJ * sought.logits(texts, dense_NC)).clamp(min=0)
        slope_NJ = -2 * signs_NJ * short_NJ * (counts / total)[:, None]
        gradients = texts.texts_UN @ slope_NJ, dense_NC.T @ slope_NJ, slope_NJ.sum(dim=0)
        for weights, gradient in zip(sought, gradients, strict=True):
            weights.grad = gradient + weights / (STRENGTH * total)
        squares = sum(weights.square().sum() for weights in sought)
        return (counts @ short_NJ.square().sum(dim=1) + squares / (2 * STRENGTH)) / total

    search.step(loss)
    found = [weights.detach() for weights in sought]
    if classes == 2:
        found = [torch.cat([-weights, weights], dim=-1) / 2 for weights in found]
    return Weights(*found)
