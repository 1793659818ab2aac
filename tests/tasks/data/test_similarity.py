import numpy as np
import pytest

from tasks.data.similarity import Known, Prefixes, prefix, same


@pytest.mark.parametrize("threshold", [0.3, 0.8, 1.0])
def test_prefixes_leave_out_no_pair_that_is_similar_enough_and_most_others(threshold):
    generator = np.random.default_rng(1)
    base = [generator.integers(2**64, size=size, dtype=np.uint64) for size in [*range(1, 40), 500, 800]]
    left = [np.unique(values) for values in base]
    right: list[np.ndarray] = []
    for number, share in enumerate((1, 0.9, 0.8)):
        right += [np.unique(np.append(values[: int(len(values) * share)], base[7][:number])) for values in base]
    sizes = np.array([len(values) for values in right])
    candidates = Prefixes(left, threshold).candidates(sizes, [prefix(values, threshold) for values in right])
    near = [[one, two] for one, two in candidates.tolist() if same(left[one], right[two], threshold)]
    assert sorted(near) == sorted(Known(left).pairs(right, threshold).tolist())
    assert len(near) >= len(base)
    assert len(candidates) < len(base) * len(right) / 4
