"""Logistic regression over two views of texts at once: hashed n-grams, which are sparse, and a GPT's hidden states."""

import warnings
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

STRENGTH = 15.0
"""What the loss of a text weighs against half the square of all weights; 30 of scikit-learn's C, for two labels."""


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


def fit(texts: Sparse, dense_NC: Tensor, labels: Tensor, counts: Tensor, classes: int) -> Weights:
    """Learn labels, N, of texts, each of which counts so much, float64 N: 0 leaves one out.

    By L-BFGS in float64 until nothing is left to gain: the best weights are the same on every machine, those on the
    way to them are not, and texts near a bound would be on its other side elsewhere.
    """
    # The best weights of a feature add up to 0 over the labels: they are sought there, in one number for two labels.
    basis_JK = torch.linalg.eigh(torch.eye(classes, dtype=torch.double) - 1 / classes).eigenvectors[:, 1:].T
    shapes = (len(texts.features_U), classes - 1), (dense_NC.shape[1], classes - 1), (classes - 1,)
    sought = Weights(*(torch.zeros(shape, dtype=torch.double, requires_grad=True) for shape in shapes))
    search = torch.optim.LBFGS(
        sought, max_iter=1000, tolerance_grad=1e-7, tolerance_change=0.0, history_size=10, line_search_fn="strong_wolfe"
    )
    total, wanted_NK = counts.sum(), F.one_hot(labels, classes)

    @torch.no_grad()
    def loss() -> Tensor:
        logits_NK = sought.logits(texts, dense_NC) @ basis_JK
        slope_NJ = (logits_NK.softmax(dim=-1) - wanted_NK) * (counts / total)[:, None] @ basis_JK.T
        gradients = texts.texts_UN @ slope_NJ, dense_NC.T @ slope_NJ, slope_NJ.sum(dim=0)
        for each, gradient in zip(sought, gradients, strict=True):
            each.grad = gradient + each / (STRENGTH * total)
        losses_N = F.cross_entropy(logits_NK, labels, reduction="none")
        return (losses_N @ counts + sum(each.square().sum() for each in sought) / (2 * STRENGTH)) / total

    search.step(loss)
    return Weights(*(each.detach() @ basis_JK for each in sought))
