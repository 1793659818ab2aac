"""N-grams of a text's words and characters, counted and hashed: fast, blind to order, and as long as the text is.

Beside a GPT that reads a part of a long text they are the wide half of a wide and deep model (Cheng et al. 2016): words
that give a class away count wherever they stand.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
import torch
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
    found, chained = [], hashes
    for length in range(1, min(lengths.stop, len(hashes) + 1)):
        if length > 1:
            chained = chained[:-1] * NEXT + hashes[length - 1 :]
        if length in lengths:
            found.append(chained)
    return np.concatenate(found) if found else hashes[:0]


def word_ngrams(text: str) -> np.ndarray:
    """Hashes of the n-grams of words, uint64: letters and digits, in lower case."""
    words = re.findall(r"[^\W_]+", text.lower())
    if not words:
        return np.zeros(0, np.uint64)
    sizes = np.array([len(word) for word in words])
    starts = np.cumsum(sizes) - sizes
    powers = np.multiply.accumulate(np.full(sizes.max(), NEXT))
    places = np.arange(sizes.sum()) - np.repeat(starts, sizes)
    return _chained(np.add.reduceat(_codes("".join(words)) * powers[places], starts), WORDS)


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
        hashes = [((view(text) * SPREAD) >> np.uint64(20)) % size for view in VIEWS]
        return [np.unique(each + np.uint64(n) * size, return_counts=True) for n, each in enumerate(hashes)]

    def fit_idf(self, texts: Sequence[str]) -> None:
        """Count in how many texts each bucket is. What one text alone has does not count."""
        found = np.zeros(self.buckets)
        for text in texts:
            for buckets, _ in self._counts(text):
                found[buckets] += 1
        self.idf.copy_(torch.from_numpy((np.log((1 + len(texts)) / (1 + found)) + 1) * (found > 1)))

    def _row(self, text: str, idf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Buckets and values of a text; each view's values have length 1."""
        rows = []
        for buckets, counts in self._counts(text):
            values = (1 + np.log(counts, dtype=np.float32)) * idf[buckets]
            known = values > 0
            rows.append((buckets[known].astype(np.int64), values[known] / max(1e-12, np.linalg.norm(values))))
        return np.concatenate([each for each, _ in rows]), np.concatenate([each for _, each in rows])

    def features(self, texts: Sequence[str], windows: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Buckets and values, float32, of all texts in a row, and where each text begins: the mean of a text's and its
        window's."""
        idf, rows = self.idf.cpu().numpy(), []
        for text, window in zip(texts, windows, strict=True):
            row = self._row(text, idf)
            if window != text:
                both = [np.concatenate(each) for each in zip(row, self._row(window, idf), strict=True)]
                buckets, places = np.unique(both[0], return_inverse=True)
                row = buckets, (np.bincount(places, both[1]) / 2).astype(np.float32)
            rows.append(row)
        sizes = torch.tensor([len(buckets) for buckets, _ in rows])
        buckets, values = (torch.from_numpy(np.concatenate(each)) for each in zip(*rows, strict=True))
        return buckets, values, sizes.cumsum(0) - sizes

    def forward(self, texts: Sequence[str], windows: Sequence[str]) -> Tensor:
        """Logits, N x labels, float32 on the CPU, of texts of any length."""
        buckets, values, starts = self.features(texts, windows)
        return F.embedding_bag(buckets, self.weight.cpu(), starts, mode="sum", per_sample_weights=values)

    def window_of(self, text: str) -> str:
        """The window of a text that looks most like the second of two labels; a short text is its own."""
        words = text.split()
        if len(words) <= WINDOW:
            return text
        starts = range(0, len(words) - WINDOW // 2, WINDOW // 2)
        windows = [" ".join(words[min(start, len(words) - WINDOW) :][:WINDOW]) for start in starts]
        buckets, values, starts = self.features(windows, windows)
        search = self.search.cpu()[:, None]
        found = F.embedding_bag(buckets, search, starts, mode="sum", per_sample_weights=values)
        return windows[int(found.argmax())]
