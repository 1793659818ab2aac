"""A linear model on a text's tokens and neighbouring pairs, counted: fast, blind to order, and as long as the text is.

Beside a GPT that reads a part of a long text it is the wide half of a wide and deep model (Cheng et al. 2016): words
that give a class away count wherever they stand.
"""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

PAIR, SPREAD = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
STRENGTH = 5.0
"""What the loss of a text weighs against half the square of all weights; 10 of scikit-learn's C, for two labels."""


class NgramModel(nn.Module):
    """A logistic regression on TF-IDF of token 1- and 2-grams, hashed into `buckets`; `fit` sets its buffers."""

    def __init__(self, buckets: int, labels: int) -> None:
        super().__init__()
        self.buckets = buckets
        self.register_buffer("idf", torch.zeros(buckets))
        self.register_buffer("weight", torch.zeros(buckets, labels))
        self.register_buffer("bias", torch.zeros(labels))

    def _counts(self, tokens: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """The buckets that a text falls into, each once, and how often it does."""
        one = np.asarray(tokens, dtype=np.uint64) + np.uint64(1)
        hashes = np.concatenate([one, one[:-1] * PAIR + one[1:]]) * SPREAD
        return np.unique((hashes >> np.uint64(20)) % np.uint64(self.buckets), return_counts=True)

    def _features(self, texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
        """Buckets and values of all texts in a row, and where each text begins; a text's values have length 1."""
        counted = [self._counts(tokens) for tokens in texts]
        buckets = torch.from_numpy(np.concatenate([ids for ids, _ in counted]).astype(np.int64))
        counts = torch.from_numpy(np.concatenate([each for _, each in counted]).astype(np.float32))
        sizes = torch.tensor([len(ids) for ids, _ in counted])
        values = (1 + counts.log()) * self.idf.cpu()[buckets]
        text = torch.repeat_interleave(sizes)
        length = torch.zeros(len(texts)).index_add_(0, text, values.square()).sqrt()
        return buckets, values / length.clamp(min=1e-12)[text], sizes.cumsum(0) - sizes

    def fit(self, texts: Sequence[Sequence[int]], labels: Tensor, class_weights: Tensor) -> None:
        """Learn from texts as tokens and labels as numbers, N; what one text alone has does not count.

        By L-BFGS in float64 until nothing is left to gain: the best weights are the same on every machine, those on the
        way to them are not, and texts near a bound would be on its other side elsewhere.
        """
        found = torch.zeros(self.buckets)
        for tokens in texts:
            found[torch.from_numpy(self._counts(tokens)[0].astype(np.int64))] += 1
        self.idf.copy_((((1 + len(texts)) / (1 + found)).log() + 1) * (found > 1))
        buckets, values, starts = self._features(texts)
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # that torch calls this form a beta
            ends = torch.cat([starts, torch.tensor([len(buckets)])])
            texts_NV = torch.sparse_csr_tensor(ends, buckets, values.double(), (len(texts), self.buckets))
            texts_VN = texts_NV.t().to_sparse_csr()  # autograd would make it anew for each gradient
        class_weights, wanted = class_weights.double(), F.one_hot(labels, self.bias.numel())
        shapes = (self.weight.shape, self.bias.shape)
        weight, bias = (torch.zeros(shape, dtype=torch.double, requires_grad=True) for shape in shapes)
        search = torch.optim.LBFGS(
            [weight, bias], max_iter=1000, tolerance_grad=1e-8, tolerance_change=0.0, history_size=10,
            line_search_fn="strong_wolfe",
        )  # fmt: skip

        @torch.no_grad()
        def loss() -> Tensor:
            logits = texts_NV @ weight + bias
            total = F.cross_entropy(logits, labels, weight=class_weights, reduction="sum")
            slope = (logits.softmax(dim=-1) - wanted) * class_weights[labels, None] / len(texts)
            weight.grad = texts_VN @ slope + weight / (STRENGTH * len(texts))
            bias.grad = slope.sum(dim=0)
            return (total + weight.square().sum() / (2 * STRENGTH)) / len(texts)

        search.step(loss)
        self.weight.copy_(weight.detach())
        self.bias.copy_(bias.detach())

    def forward(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Logits, N x labels, float32 on the CPU, of texts as tokens, of any length but none."""
        buckets, values, starts = self._features(texts)
        weight = self.weight.cpu()
        return F.embedding_bag(buckets, weight, starts, mode="sum", per_sample_weights=values) + self.bias.cpu()

    def strongest(self, texts: Sequence[Sequence[int]], size: int) -> tuple[list[list[int]], Tensor, Tensor]:
        """The window of `size` tokens of each text that is most like the second of two labels, its logits, N x 2, and
        of how many windows it is the strongest, N.

        Windows overlap by half; a text of at most `size` tokens is its own. What is put around a text dilutes the
        whole, and leaves one of its windows nearly as it was.
        """
        starts = [range(0, max(1, len(tokens) - size + size // 2), size // 2) for tokens in texts]
        windows = [
            list(tokens[min(first, max(0, len(tokens) - size)) :][:size])
            for tokens, firsts in zip(texts, starts, strict=True)
            for first in firsts
        ]
        logits, counts = self(windows), [len(firsts) for firsts in starts]
        margins = (logits[:, 1] - logits[:, 0]).split(counts)
        before = np.cumsum([0, *counts])
        chosen = [int(first + margin.argmax()) for first, margin in zip(before, margins, strict=False)]
        return [windows[row] for row in chosen], logits[chosen], torch.tensor(counts, dtype=torch.float)
