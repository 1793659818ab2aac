import re
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data.shingles import Known, Prefixes, band_shape, bands, first_of_groups, prefix, same, shingles, whole


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower()) or [text]


def triples(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[n : n + 3]) for n in range(len(found) - 2)} or {tuple(found)}


TEXTS = st.text(st.characters(codec="utf-32") | st.sampled_from("ab A-_'.\n²ßİéΣ\u2019"), max_size=60)


@given(TEXTS, TEXTS)
def test_sets_are_those_of_a_regular_expression(one, other):
    left, right = shingles(one), shingles(other)
    assert len(left) == len(triples(one))
    assert len(np.intersect1d(left, right)) == len(triples(one) & triples(other))
    assert (whole([left]) == whole([right])).item() == (triples(one) == triples(other))


@pytest.mark.parametrize("threshold", [0.5, 0.8, 1.0])
def test_texts_that_are_just_similar_enough_have_a_band_in_common(threshold):
    count, rows = band_shape(threshold)
    assert count * rows <= 128
    assert (1 - threshold**rows) ** count <= 1e-6
    generator = np.random.default_rng(0)
    common, own = round(200 * threshold / (1 + threshold)), 100 - round(200 * threshold / (1 + threshold))
    missed = false = 0
    for _ in range(500):
        numbers = np.sort(generator.integers(2**64, size=200 + 2 * own, dtype=np.uint64))
        generator.shuffle(numbers)
        sets = [np.sort(numbers[:100]), np.sort(np.append(numbers[:common], numbers[100 : 100 + own]))]
        sets += [np.sort(np.append(numbers[:10], numbers[200 : 200 + own])), sets[0]]
        first, second, other, again = bands(sets, threshold).T
        assert (first == again).all()
        missed += not (first == second).any()
        false += (first == other).any()
    assert missed == 0
    similarity = 10 / (100 + own)
    assert false / 500 == pytest.approx(1 - (1 - similarity**rows) ** count, abs=0.05)


def test_of_thousands_of_equal_forms_few_pairs_are_compared():
    forms = [f"dear customer {n} your order has been sent and will reach you within a week or so" for n in range(500)]
    sets, asked = [shingles(form) for form in forms], []

    def some(rows):
        asked.append(len(rows))
        return [sets[row] for row in rows]

    first = first_of_groups(whole(sets), np.array([*map(len, sets)]), bands(sets, 0.6), some, 0.6)
    assert set(first) == {0}
    assert sum(asked) < 3 * 500


def test_forms_that_are_not_similar_enough_take_no_longer_the_more_are_known_to_differ():
    form = " ".join(f"word{n}" for n in range(81))
    sets = [shingles(" ".join([form, *(f"own{row}x{n}" for n in range(19))])) for row in range(200)]
    start = time.process_time()
    first = first_of_groups(
        whole(sets), np.array([*map(len, sets)]), bands(sets, 0.8), lambda rows: [sets[row] for row in rows], 0.8
    )
    assert time.process_time() - start < 4  # seconds; with all that differ searched through each time 9
    assert first.tolist() == [*range(200)]
    assert same(sets[0], sets[1], 0.67)


@pytest.mark.parametrize("threshold", [0.3, 0.8, 1.0])
def test_prefixes_leave_out_no_pair_that_is_similar_enough_and_most_others(threshold):
    generator = np.random.default_rng(1)
    base = [generator.integers(2**64, size=size, dtype=np.uint64) for size in [*range(1, 40), 500, 800]]
    shares = enumerate((1, 0.9, 0.8))
    others = [np.append(each[: int(len(each) * share)], base[7][:n]) for n, share in shares for each in base]
    known, others = ([np.unique(each) for each in sets] for sets in (base, others))
    sizes = np.array([*map(len, others)])
    found = Prefixes(known, threshold).candidates(sizes, [prefix(each, threshold) for each in others])
    near = [(one, other) for one, other in found.tolist() if same(known[one], others[other], threshold)]
    assert sorted(near) == sorted(map(tuple, Known(known).pairs(others, threshold).tolist()))
    assert len(near) >= len(base)
    assert len(found) < len(base) * len(others) / 4
