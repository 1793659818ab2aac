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
        features_U, columns = features.unique(return_inverse=True)
        ends = torch.cat([starts, torch.tensor([len(columns)])])
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # that torch calls this form a beta
            size = (len(starts), len(features_U))
            texts_NU = torch.sparse_csr_tensor(_small(ends), _small(columns), values.double(), size=size)
            turned = texts_NU.t().to_sparse_csr()
            rows, numbers = _small(turned.crow_indices()), _small(turned.col_indices())
            texts_UN = torch.sparse_csr_tensor(rows, numbers, turned.values(), size=turned.shape)
            return cls(texts_NU, texts_UN, features_U)


def _small(indices: Tensor) -> Tensor:
    """Indices in 32 bits, which must hold them: MKL converts those of 64 bits at each product."""
    return indices.to(torch.int32)


class Views(NamedTuple):
    """Both views of some texts."""

    ngrams: Sparse
    states_NC: Tensor
    """A GPT's states of them, float64."""


class Weights(NamedTuple):
    """Float64: of the sparse features, U x K, of the dense ones, C x K, and a bias, K."""

    sparse_UK: Tensor
    dense_CK: Tensor
    bias_K: Tensor

    def logits(self, views: Views) -> Tensor:
        """The logits of texts, N x K."""
        return views.ngrams.texts_NU @ self.sparse_UK + views.states_NC @ self.dense_CK + self.bias_K


class Step(NamedTuple):
    """A step of the weights, W, with the change that it makes to the margins, N, and the slope of the loss along it."""

    weights_W: Tensor
    margins_N: Tensor
    slope: Tensor


@dataclass(frozen=True)
class Machine:
    """One label against the others. Its weights, W, are those of both views and the bias in one vector, float64."""

    views: Views
    signs_N: Tensor
    """1 for a text with the label, else -1."""
    shares_N: Tensor
    """How much each text counts; the sum is 1."""
    ridge: float
    """What half the square of the weights counts beside the mean loss of the texts."""

    def margins(self, weights_W: Tensor) -> Tensor:
        """How far each text is on its side, N."""
        ngrams, states_NC = self.views
        sparse_U, dense_C, bias = weights_W.split([ngrams.texts_NU.shape[1], states_NC.shape[1], 1])
        return self.signs_N * (ngrams.texts_NU @ sparse_U + states_NC @ dense_C + bias)

    def pulled(self, pull_N: Tensor) -> Tensor:
        """The sum of the texts' features, W, each times its pull towards its side: the transpose of `margins`."""
        ngrams, states_NC = self.views
        signed_N = self.signs_N * pull_N
        return torch.cat([ngrams.texts_UN @ signed_N, states_NC.T @ signed_N, signed_N.sum()[None]])

    def loss(self, weights_W: Tensor, margins_N: Tensor) -> Tensor:
        """The mean squared hinge of these margins, and the ridge on the weights that give them."""
        short_N = (1 - margins_N).clamp(min=0)
        return self.shares_N @ short_N.square() + self.ridge * (weights_W @ weights_W) / 2

    def gradient(self, weights_W: Tensor, margins_N: Tensor) -> Tensor:
        """The gradient of the loss, W."""
        short_N = (1 - margins_N).clamp(min=0)
        return self.ridge * weights_W - self.pulled(2 * self.shares_N * short_N)

    def fit(self, tolerance: float) -> Tensor:
        """The weights, W, at which no gradient is above `tolerance`."""
        ngrams, states_NC = self.views
        size = ngrams.texts_NU.shape[1] + states_NC.shape[1] + 1
        weights_W = torch.zeros(size, dtype=torch.double)
        margins_N = torch.zeros_like(self.signs_N)
        for _ in range(NEWTON_STEPS):
            gradient_W = self.gradient(weights_W, margins_N)
            if gradient_W.abs().max() <= tolerance:
                break
            step_W = self.newton_step(gradient_W, margins_N)
            change_N = self.margins(step_W)
            step = Step(step_W, change_N, slope=gradient_W @ step_W)
            length = self.step_length(weights_W, margins_N, step)
            weights_W = weights_W + length * step_W
            margins_N = margins_N + length * change_N
        return weights_W

    def newton_step(self, gradient_W: Tensor, margins_N: Tensor) -> Tensor:
        """The step to the minimum of the loss's quadratic approximation at these margins, by conjugate gradients.

        They stop at NEARER of the gradient, so the step is approximate.
        """
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

    def step_length(self, weights_W: Tensor, margins_N: Tensor, step: Step) -> float:
        """The share of a step that lowers the loss: all of it, or a half of that, and so on."""
        loss = self.loss(weights_W, margins_N)
        length = 1.0
        while length > torch.finfo(torch.double).eps:
            moved_loss = self.loss(weights_W + length * step.weights_W, margins_N + length * step.margins_N)
            if moved_loss <= loss + DESCENT * length * step.slope:
                break
            length /= 2
        return length


def fit(views: Views, labels_N: Tensor, *, learned_N: Tensor, classes: int, tolerance: float = 1e-7) -> Weights:
    """Learn the labels of texts, each of which counts as much as `learned_N` says, float64: 0 leaves it out.

    The loss is the squared hinge (Chang et al. 2008), of each label against the others. Texts that are well on their
    side cost nothing, so the hard ones decide. Of two labels the difference of the logits is the margin.

    By Newton's method with conjugate gradients (Keerthi and DeCoste 2005) in float64 until no gradient is above
    `tolerance`: the best weights are the same on every machine, those on the way to them are not, and texts near a
    bound would be on its other side elsewhere.
    """
    total = learned_N.sum()
    columns = []
    for label in [1] if classes == 2 else range(classes):
        signs_N = torch.where(labels_N == label, 1.0, -1.0).double()
        machine = Machine(views, signs_N, shares_N=learned_N / total, ridge=1 / (STRENGTH * float(total)))
        columns.append(machine.fit(tolerance))
    weights_WK = torch.stack(columns, dim=1)
    if classes == 2:
        weights_WK = torch.cat([-weights_WK, weights_WK], dim=1) / 2
    sizes = [len(views.ngrams.features_U), views.states_NC.shape[1], 1]
    sparse_UK, dense_CK, bias_1K = weights_WK.split(sizes)
    return Weights(sparse_UK, dense_CK, bias_1K[0])
