"""N-grams of a text's words and characters, counted and hashed: fast, blind to order, and as long as the text is.

Beside a GPT that reads a part of a long text they are the wide half of a wide and deep model (Cheng et al. 2016): words
that give a class away count wherever they stand.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional as F

WORDS, CHARACTERS = range(1, 3), range(2, 6)
"""Lengths of n-grams."""
WINDOW = 100
"""Words of a window; windows overlap by half."""
NEXT, SPREAD = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64) + np.uint64(1)


def _chained(hashes: np.ndarray, lengths: range) -> np.ndarray:
    """Hashes of all sequences of these lengths, from those of their members, uint64; arithmetic wraps around."""
    chained = hashes
    parts = [hashes[:0]]
    for length in range(1, min(lengths.stop, len(hashes) + 1)):
        if length > 1:
            chained = chained[:-1] * NEXT + hashes[length - 1 :]
        if length in lengths:
            parts.append(chained)
    return np.concatenate(parts)


def word_ngrams(text: str) -> np.ndarray:
    """Hashes of the n-grams of words, uint64: letters and digits, in lower case."""
    words = re.findall(r"[^\W_]+", text.lower())
    if not words:
        return np.zeros(0, np.uint64)
    sizes = np.array([len(word) for word in words])
    starts = np.cumsum(sizes) - sizes
    powers = np.multiply.accumulate(np.full(sizes.max(), NEXT))
    positions = np.arange(sizes.sum()) - np.repeat(starts, sizes)  # of each letter within its word
    hashes = np.add.reduceat(_codes("".join(words)) * powers[positions], starts)
    return _chained(hashes, WORDS)


def character_ngrams(text: str) -> np.ndarray:
    """Hashes of the n-grams of characters, uint64, in lower case; any white space is one space."""
    return _chained(_codes(f" {' '.join(text.lower().split())} "), CHARACTERS)


VIEWS: tuple[Callable[[str], np.ndarray], ...] = (word_ngrams, character_ngrams)


class NgramModel(nn.Module):
    """A linear model on TF-IDF of n-grams, hashed into `buckets`, half of them for words and half for characters.

    All are buffers, which are fitted and not trained: `idf`, the `weight` of each label, and `search`, what makes a
    part of a text look like the second of two labels.
    """

    def __init__(self, buckets: int, labels: int) -> None:
        super().__init__()
        self.buckets = buckets
        self.register_buffer("idf", torch.zeros(buckets))
        self.register_buffer("weight", torch.zeros(buckets, labels))
        self.register_buffer("search", torch.zeros(buckets))

    def _counts(self, text: str) -> list[tuple[np.ndarray, np.ndarray]]:
        """The buckets that a text falls into, each once, and how often it does, by view."""
        size = np.uint64(self.buckets // len(VIEWS))
        counts = []
        for number, view in enumerate(VIEWS):
            buckets = ((view(text) * SPREAD) >> np.uint64(20)) % size
            counts.append(np.unique(buckets + np.uint64(number) * size, return_counts=True))
        return counts

    def fit_idf(self, texts: Sequence[str]) -> None:
        """Count in how many texts each bucket is. What one text alone has does not count."""
        texts_with_bucket = np.zeros(self.buckets)
        for text in texts:
            for buckets, _ in self._counts(text):
                texts_with_bucket[buckets] += 1
        idf = np.log((1 + len(texts)) / (1 + texts_with_bucket)) + 1
        self.idf.copy_(torch.from_numpy(idf * (texts_with_bucket > 1)))

    def _row(self, text: str, idf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Buckets, int64, and values, float32, of a text; those of each view have length 1."""
        buckets_of_views = []
        values_of_views = []
        for buckets, counts in self._counts(text):
            values = (1 + np.log(counts, dtype=np.float32)) * idf[buckets]
            counted = values > 0
            buckets_of_views.append(buckets[counted].astype(np.int64))
            values_of_views.append(values[counted] / max(1e-12, np.linalg.norm(values)))
        return np.concatenate(buckets_of_views), np.concatenate(values_of_views)

    def features(self, texts: Sequence[str], windows: Sequence[str]) -> sparse.csr_matrix:
        """The values of each text, float32 N x buckets: the mean of the text's and its window's."""
        idf = self.idf.cpu().numpy()
        rows = []
        for text, window in zip(texts, windows, strict=True):
            buckets, values = self._row(text, idf)
            if window != text:
                window_buckets, window_values = self._row(window, idf)
                buckets, numbers = np.unique(np.concatenate([buckets, window_buckets]), return_inverse=True)
                sums = np.bincount(numbers, np.concatenate([values, window_values]))
                values = (sums / 2).astype(np.float32)
            rows.append((buckets, values))
        buckets, values = map(np.concatenate, zip(*rows, strict=True))
        ends = np.cumsum([0, *(len(row) for row, _ in rows)])
        return sparse.csr_matrix((values, buckets, ends), shape=(len(texts), self.buckets))

    def forward(self, texts: Sequence[str], windows: Sequence[str]) -> Tensor:
        """Logits, N x labels, float32 on the CPU, of texts of any length."""
        return _weighted_sums(self.features(texts, windows), self.weight.cpu())

    def window_of(self, text: str) -> str:
        """The window of a text that looks most like the second of two labels; a short text is its own."""
        words = text.split()
        if len(words) <= WINDOW:
            return text
        starts = range(0, len(words) - WINDOW // 2, WINDOW // 2)
        windows = [" ".join(words[min(start, len(words) - WINDOW) :][:WINDOW]) for start in starts]
        likeness = _weighted_sums(self.features(windows, windows), self.search.cpu()[:, None])
        return windows[int(likeness.argmax())]


def _weighted_sums(features: sparse.csr_matrix, weight: Tensor) -> Tensor:
    """The sum of each text's values times the weight of their buckets, N x K."""
    buckets, values, starts = map(torch.from_numpy, (features.indices, features.data, features.indptr[:-1]))
    return F.embedding_bag(buckets, weight, starts, mode="sum", per_sample_weights=values)
