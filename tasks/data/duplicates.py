"""Near duplicates among the rows of a dataset: found by MinHash to drop rows, and exactly to check splits."""

import logging
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from tasks.data.minhash import band_shape, first_of_groups
from tasks.data.rows import Rows, band_column
from tasks.data.shingles import Sets, shingles
from tasks.data.similarity import ShingleMatrix
from tasks.data.table_parts import column

DUPLICATES = "near_duplicates"  # the rule of tasks/data/cleaning
SAMPLE = 5_000  # rows of validation and test that are compared with all others

logger = logging.getLogger(__name__)


def without_duplicates(rows: Rows, threshold: float) -> Rows:
    """The first row of each group of near duplicates, among all rows of the parts.

    Two rows belong together when the sets of word 3-shingles of their texts, in lower case, have a Jaccard similarity
    of at least `threshold`, or when a chain of such rows joins them.
    """

    def sets(positions: np.ndarray) -> Sets:
        return [shingles(text) for text in rows.texts(positions)]

    first = first_of_groups(
        equal=rows.hashes("equal"),
        sizes=rows.hashes("shingles"),
        bands=(column(rows.parts, band_column(number)) for number in range(band_shape(threshold)[0])),
        sets=sets,
        threshold=threshold,
    )
    repeated = first != rows.positions
    equal = len(first) - len(np.unique(rows.hashes("equal")))
    counts = {"rows": len(first), "equal": equal, "near": repeated.sum() - equal, "kept": (~repeated).sum()}
    logger.info("%(rows)d rows: %(equal)d equal and %(near)d near duplicates dropped, %(kept)d left", counts)
    names = rows.read(np.unique(first[repeated]), ["id"])["id"].astype(object)
    reasons = "as " + names[first[repeated]].set_axis(rows.positions[repeated])
    return rows.without(DUPLICATES, reasons)


def near_rows(rows: Rows, sets: Sets, threshold: float) -> Iterator[np.ndarray]:
    """Pairs [n, 2] of near duplicates: the index of one of these sets, and the position of a row. A part at a time."""
    matrix = ShingleMatrix(sets)
    for positions in rows.positions_by_part():
        near = matrix.pairs([shingles(text) for text in rows.texts(positions)], threshold)
        yield np.stack([near[:, 0], positions[near[:, 1]]], axis=1)


def overlap(rows: Rows, threshold: float, seed: int) -> int:
    """Count the rows of validation and test that have a near duplicate in an earlier split.

    It compares all pairs exactly, so it checks the groups of `without_duplicates` independently. Of more than SAMPLE
    rows it takes a sample.
    """
    order = pd.Series(rows.split_codes(), rows.positions)
    held_out = rows.positions[order > 0]
    drawn = np.sort(np.random.default_rng(seed).permutation(held_out)[:SAMPLE])
    if len(drawn) < len(held_out):
        logger.info("%d of %d rows of validation and test are compared with all before them", len(drawn), len(held_out))
    sets = [shingles(text) for text in rows.texts(drawn)]
    earlier = replace(rows, facts=rows.facts[order < 2])
    overlapping: set[int] = set()
    for pairs in near_rows(earlier, sets, threshold):
        is_earlier = order[pairs[:, 1]].to_numpy() < order[drawn[pairs[:, 0]]].to_numpy()
        overlapping.update(pairs[is_earlier, 0].tolist())
    return len(overlapping)
