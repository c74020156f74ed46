"""Which records are kept: of those that look the same the first, and none that an evaluation has."""

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sized
from typing import Protocol

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mmjax.data.prepare.facts import KEPT, Facts
from mmjax.data.prepare.settings import BITS, Settings

DUPLICATE, CONTAMINATED = "duplicate", "in an evaluation"
SORT_SECS, COMPARE_SECS = 5e-7, 3e-8
"""About what numpy takes for one of many hashes, and for one pair."""


class Parts(Sized, Iterable[Facts], Protocol):
    """Facts of a source's parts, one after the other."""


def choose(settings: Settings, parts: Parts, held_out: Parts) -> np.ndarray:
    """Why each record of all parts is dropped, "" where it is kept."""
    reasons = np.concatenate([part.reasons for part in parts]).astype("U20")
    if len(held_out):
        usable = np.flatnonzero(reasons == KEPT)
        known = np.concatenate([part.reasons for part in held_out]) == KEPT
        ours, theirs = _hashes(settings.measure, parts)[usable], _hashes(settings.measure, held_out)[known]
        reasons[usable[_among(ours, theirs, settings.reach)]] = CONTAMINATED
    if settings.dedup != "none":
        usable = np.flatnonzero(reasons == KEPT)
        first = np.unique(_groups(_hashes(settings.measure, parts)[usable], settings.reach), return_index=True)[1]
        reasons[np.delete(usable, first)] = DUPLICATE
    return reasons


def _hashes(measure: str, parts: Parts) -> np.ndarray:
    """uint64 (n, words)."""
    return np.concatenate([part.exact if measure == "exact" else part.looks[:, None] for part in parts])


def _among(ours: np.ndarray, theirs: np.ndarray, reach: int) -> np.ndarray:
    """Whether each of ours is within reach of one of theirs."""
    kinds, which = _kinds(np.concatenate([ours, theirs]))
    of_theirs = np.zeros(len(kinds), bool)
    of_theirs[which[len(ours) :]] = True
    found = of_theirs.copy()
    for left, right in near_pairs(kinds, reach):
        found[left] |= of_theirs[right]
        found[right] |= of_theirs[left]
    return found[which[: len(ours)]]


def _groups(hashes: np.ndarray, reach: int) -> np.ndarray:
    """A number for each, equal for those that are equal, or connected by pairs within reach."""
    kinds, which = _kinds(hashes)
    pairs = [np.zeros((2, 0), int), *map(np.array, near_pairs(kinds, reach))]
    left, right = np.concatenate(pairs, axis=1)
    graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(len(kinds), len(kinds)))
    labels: np.ndarray = connected_components(graph, directed=False)[1]
    return labels[which]


def _kinds(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different hashes, and which of them each is."""
    # As numpy's unique of rows, in a twentieth of its time.
    order = np.lexsort(hashes.T)
    ordered = hashes[order]
    is_new = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(1)])[: len(order)]
    which = np.empty(len(order), int)
    which[order] = np.cumsum(is_new) - 1
    return ordered[is_new], which


def near_pairs(kinds: np.ndarray, reach: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs (left, right) of different hashes, uint64 (n, 1), that differ in at most `reach` bits; some come twice.

    Of b blocks of bits two such hashes have b - reach in common, so that for each choice of those only hashes are
    compared that are equal there (Manku et al. 2007, section 3.1).
    """
    if not reach:
        return
    words, masks = kinds[:, 0], _block_masks(num_blocks(len(kinds), reach))
    for differing in itertools.combinations(masks, reach):
        common = words & ~functools.reduce(np.bitwise_or, differing)
        for left, right in _within(common):
            near = np.bitwise_count(words[left] ^ words[right]) <= reach
            yield left[near], right[near]


def num_blocks(num_hashes: int, reach: int) -> int:
    """The blocks that cost least: the more of them, the fewer hashes are alike in what is compared, and the more often
    all are sorted."""

    def secs(blocks: int) -> float:
        alike = num_hashes**2 / 2 ** (BITS * (blocks - reach) / blocks + 1)
        return math.comb(blocks, reach) * (num_hashes * SORT_SECS + alike * COMPARE_SECS)

    return min(range(reach + 1, BITS + 1), key=secs)


def _block_masks(number: int) -> list[np.uint64]:
    edges = np.linspace(0, BITS, number + 1).astype(int).tolist()
    return [np.uint64((1 << stop) - (1 << start)) for start, stop in itertools.pairwise(edges)]


def _within(values: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of places with equal values, at most as many at a time as there are values."""
    order = np.argsort(values)
    ordered = values[order]
    alike = np.arange(len(values))
    for distance in itertools.count(1):
        # Those that are alike so far apart in their order are alike at any less.
        alike = alike[alike + distance < len(values)]
        alike = alike[ordered[alike] == ordered[alike + distance]]
        if not len(alike):
            return
        yield order[alike], order[alike + distance]
