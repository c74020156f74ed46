"""Which records are kept: of those that look the same the first, and none that an evaluation has."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mmjax.data.prepare.facts import KEPT, Facts
from mmjax.data.prepare.settings import Settings

DUPLICATE, CONTAMINATED = "duplicate", "in an evaluation"
BITS = 64


def choose(settings: Settings, parts: Sequence[Facts], held_out: Sequence[Facts]) -> np.ndarray:
    """Why each record of all parts is dropped, "" where it is kept."""
    reasons = np.concatenate([part.reasons for part in parts]).astype("U20")
    if held_out:
        usable = np.flatnonzero(reasons == KEPT)
        known = np.concatenate([part.reasons for part in held_out]) == KEPT
        ours, theirs = _hashes(settings.measure, parts)[usable], _hashes(settings.measure, held_out)[known]
        reasons[usable[_among(ours, theirs, settings.reach)]] = CONTAMINATED
    if settings.dedup != "none":
        usable = np.flatnonzero(reasons == KEPT)
        first = np.unique(_groups(_hashes(settings.measure, parts)[usable], settings.reach), return_index=True)[1]
        reasons[np.delete(usable, first)] = DUPLICATE
    return reasons


def _hashes(measure: str, parts: Sequence[Facts]) -> np.ndarray:
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
    kinds, which = np.unique(hashes, axis=0, return_inverse=True)
    return kinds, which.reshape(-1)


def near_pairs(kinds: np.ndarray, reach: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs (left, right) of different hashes, uint64 (n, 1), that differ in at most `reach` bits; some come twice.

    Of `reach + 1` bands of bits two such hashes have one in common, so that only those are compared that have.
    """
    if not reach:
        return
    words, edges = kinds[:, 0], np.linspace(0, BITS, reach + 2).astype(int)
    for start, stop in itertools.pairwise(edges):
        band = (words >> np.uint64(start)) & np.uint64(2 ** (stop - start) - 1)
        for left, right in _within(band):
            near = np.bitwise_count(words[left] ^ words[right]) <= reach
            yield left[near], right[near]


def _within(band: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of places with equal values, at most as many at a time as one value has places."""
    order = np.argsort(band, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], band[order[1:]] != band[order[:-1]], [True]]))
    for start, stop in itertools.pairwise(starts):
        members = order[start:stop]
        for place in range(1, len(members)):
            yield members[:-place], members[place:]
