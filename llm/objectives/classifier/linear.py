"""A linear support vector machine over two views of a text: hashed n-grams, which are sparse, and a GPT's states."""

import warnings
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

STRENGTH = 1.0
"""What the loss of a text weighs against half the square of all weights; scikit-learn's C."""
NEWTON_STEPS, GRADIENT_STEPS = 100, 200
"""At most so many steps of a fit, and of conjugate gradients in each of them; 8 and 12 are usual."""
NEARER = 0.1
"""Conjugate gradients end where what is left of the gradient is this share of it."""
DESCENT = 1e-4
"""A step is halved until the loss falls by this share of what its slope promises."""


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
        small = torch.int32 if len(columns) < 2**31 else torch.int64  # MKL converts those of 64 bits at each product
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # that torch calls this form a beta
            size = len(starts), len(known_U)
            rows = torch.sparse_csr_tensor(ends.to(small), columns.to(small), values.double(), size)
            turned = rows.t().to_sparse_csr()
            turned_starts, turned_columns = turned.crow_indices().to(small), turned.col_indices().to(small)
            turned = torch.sparse_csr_tensor(turned_starts, turned_columns, turned.values(), turned.shape)
            return cls(rows, turned, known_U)


class Weights(NamedTuple):
    """Float64: of the sparse features, U x K, of the dense ones, C x K, and a bias, K."""

    sparse_UK: Tensor
    dense_CK: Tensor
    bias_K: Tensor

    def logits(self, texts: Sparse, dense_NC: Tensor) -> Tensor:
        """N x K."""
        return texts.texts_NU @ self.sparse_UK + dense_NC @ self.dense_CK + self.bias_K


@dataclass(frozen=True)
class Machine:
    """One label against the others. Its weights, W, are those of both views and the bias in one vector, float64."""

    texts: Sparse
    dense_NC: Tensor
    signs_N: Tensor
    """1 for a text with the label, else -1."""
    shares_N: Tensor
    """How much each text counts; the sum is 1."""
    ridge: float
    """What half the square of the weights counts beside the mean loss of the texts."""

    def margins(self, weights_W: Tensor) -> Tensor:
        """How far each text is on its side, N."""
        features, states = self.texts.texts_NU.shape[1], self.dense_NC.shape[1]
        sparse_U, dense_C, bias = weights_W.split([features, states, 1])
        return self.signs_N * (self.texts.texts_NU @ sparse_U + self.dense_NC @ dense_C + bias)

    def pulled(self, pull_N: Tensor) -> Tensor:
        """The sum of the texts' features, W, each times its pull towards its side: the transpose of `margins`."""
        signed_N = self.signs_N * pull_N
        return torch.cat([self.texts.texts_UN @ signed_N, self.dense_NC.T @ signed_N, signed_N.sum()[None]])

    def loss(self, margins_N: Tensor, square: Tensor) -> Tensor:
        """The loss at these margins, of weights with this sum of squares."""
        short_N = (1 - margins_N).clamp(min=0)
        return self.shares_N @ short_N.square() + self.ridge * square / 2

    def gradient(self, weights_W: Tensor, margins_N: Tensor) -> Tensor:
        """The gradient of the loss, W."""
        short_N = (1 - margins_N).clamp(min=0)
        return self.ridge * weights_W - self.pulled(2 * self.shares_N * short_N)

    def fit(self, tolerance: float) -> Tensor:
        """The weights, W, at which no gradient is above `tolerance`."""
        size = self.texts.texts_NU.shape[1] + self.dense_NC.shape[1] + 1
        weights_W = torch.zeros(size, dtype=torch.double)
        margins_N = torch.zeros_like(self.signs_N)
        for _ in range(NEWTON_STEPS):
            gradient_W = self.gradient(weights_W, margins_N)
            if gradient_W.abs().max() <= tolerance:
                break
            step_W = self.newton_step(gradient_W, margins_N)
            change_N = self.margins(step_W)
            length = self.step_length(weights_W, margins_N, step_W, change_N, gradient_W @ step_W)
            weights_W = weights_W + length * step_W
            margins_N = margins_N + length * change_N
        return weights_W

    def newton_step(self, gradient_W: Tensor, margins_N: Tensor) -> Tensor:
        """About the step to the minimum of the parabola that the loss is near these margins, by conjugate gradients."""
        curvature_N = 2 * self.shares_N * (margins_N < 1)
        step_W = torch.zeros_like(gradient_W)
        residual_W = -gradient_W
        direction_W = residual_W
        square = residual_W @ residual_W
        enough = NEARER**2 * square
        for _ in range(GRADIENT_STEPS):
            curved_W = self.ridge * direction_W + self.pulled(curvature_N * self.margins(direction_W))
            length = square / (direction_W @ curved_W)
            step_W = step_W + length * direction_W
            residual_W = residual_W - length * curved_W
            previous, square = square, residual_W @ residual_W
            if square <= enough:
                break
            direction_W = residual_W + square / previous * direction_W
        return step_W

    def step_length(
        self, weights_W: Tensor, margins_N: Tensor, step_W: Tensor, change_N: Tensor, slope: Tensor
    ) -> float:
        """The share of a step that lowers the loss: all of it, or a half of that, and so on."""
        before = self.loss(margins_N, weights_W @ weights_W)
        length = 1.0
        while length > torch.finfo(torch.double).eps:
            moved_W = weights_W + length * step_W
            if self.loss(margins_N + length * change_N, moved_W @ moved_W) <= before + DESCENT * length * slope:
                break
            length /= 2
        return length


def fit(
    texts: Sparse, dense_NC: Tensor, labels: Tensor, counts: Tensor, classes: int, tolerance: float = 1e-7
) -> Weights:
    """Learn labels, N, of texts, each of which counts so much, float64 N: 0 leaves one out.

    The loss is the squared hinge (Chang et al. 2008), of each label against the others. Texts that are well on their
    side cost nothing, so the hard ones decide. Of two labels the difference of the logits is the margin.

    By Newton's method with conjugate gradients (Keerthi and DeCoste 2005) in float64 until no gradient is above
    `tolerance`: the best weights are the same on every machine, those on the way to them are not, and texts near a
    bound would be on its other side elsewhere.
    """
    total = counts.sum()
    columns = []
    for label in [1] if classes == 2 else range(classes):
        signs_N = torch.where(labels == label, 1.0, -1.0).double()
        machine = Machine(texts, dense_NC, signs_N, counts / total, 1 / (STRENGTH * float(total)))
        columns.append(machine.fit(tolerance))
    weights_WK = torch.stack(columns, dim=1)
    if classes == 2:
        weights_WK = torch.cat([-weights_WK, weights_WK], dim=1) / 2
    sparse_UK, dense_CK, bias_1K = weights_WK.split([len(texts.features_U), dense_NC.shape[1], 1])
    return Weights(sparse_UK, dense_CK, bias_1K[0])
