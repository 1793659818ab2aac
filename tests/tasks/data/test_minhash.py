import time
from collections.abc import Sequence

import numpy as np
import pytest

from tasks.data.minhash import band_shape, bands, first_of_groups
from tasks.data.shingles import shingles, whole
from tasks.data.similarity import same


@pytest.mark.parametrize("threshold", [0.5, 0.8, 1.0])
def test_bands_of_texts_that_are_just_similar_enough_have_one_in_common(threshold):
    count, rows = band_shape(threshold)
    assert count * rows <= 128
    assert (1 - threshold**rows) ** count <= 1e-6
    generator = np.random.default_rng(0)
    common = round(200 * threshold / (1 + threshold))
    own = 100 - common
    missed = 0
    false = 0
    for _ in range(500):
        numbers = np.sort(generator.integers(2**64, size=200 + 2 * own, dtype=np.uint64))
        generator.shuffle(numbers)
        sets = [np.sort(numbers[:100]), np.sort(np.append(numbers[:common], numbers[100 : 100 + own]))]
        sets += [np.sort(np.append(numbers[:10], numbers[200 : 200 + own])), sets[0]]
        first, second, distant, repeated = bands(sets, threshold).T
        assert (first == repeated).all()
        missed += not (first == second).any()
        false += (first == distant).any()
    assert missed == 0
    similarity = 10 / (100 + own)
    assert false / 500 == pytest.approx(1 - (1 - similarity**rows) ** count, abs=0.05)


class Texts:
    """Texts whose groups are searched, and how many were compared."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.sets = [shingles(text) for text in texts]
        self.compared = 0

    def some(self, rows: np.ndarray) -> list[np.ndarray]:
        self.compared += len(rows)
        return [self.sets[row] for row in rows]

    def groups(self, threshold: float) -> list[int]:
        sizes = np.array([len(shingle_set) for shingle_set in self.sets])
        first = first_of_groups(
            equal=whole(self.sets),
            sizes=sizes,
            bands=bands(self.sets, threshold),
            sets=self.some,
            threshold=threshold,
        )
        return first.tolist()


def test_groups_of_hundreds_of_near_duplicates_take_few_comparisons():
    form = "dear customer {} your order has been sent and will reach you within a week or so"
    texts = Texts([form.format(number) for number in range(500)])
    assert set(texts.groups(0.6)) == {0}
    assert texts.compared < 3 * 500


def test_groups_of_texts_that_are_not_similar_enough_take_seconds():
    form = " ".join(f"word{n}" for n in range(81))
    own_words = "own{0}x1 own{0}x2 own{0}x3 own{0}x4 own{0}x5 own{0}x6 own{0}x7 own{0}x8 own{0}x9 own{0}x10"
    own_words += " own{0}x11 own{0}x12 own{0}x13 own{0}x14 own{0}x15 own{0}x16 own{0}x17 own{0}x18 own{0}x19"
    texts = Texts([f"{form} {own_words.format(row)}" for row in range(200)])
    start = time.process_time()
    assert texts.groups(0.8) == list(range(200))
    assert time.process_time() - start < 4  # with all that differ searched through each time 9
    assert same(texts.sets[0], texts.sets[1], 0.67)
