import numpy as np
import pytest

from mmjax.evals.ranking import hit_rate, ranks


def test_ranks_count_the_wrong_candidates_ahead() -> None:
    queries = np.eye(3, dtype=np.float32)
    candidates = np.array([[0.9, 0.1, 0.2], [0.8, 0.5, 0.3], [0.1, 0.4, 0.1], [0.2, 0.3, 0.4]], np.float32)
    right = np.array([[0, 1], [1, 3], [2, 3], [2, 0]])
    assert ranks(queries, candidates, right).tolist() == [1, 2, 0]


def test_ties_and_non_finite_embeddings_count_against_the_model() -> None:
    same = np.full((4, 4), 0.5, np.float32)
    diagonal = np.stack([np.arange(4)] * 2, axis=1)
    assert ranks(same, same, diagonal).tolist() == [3, 3, 3, 3]
    assert ranks(same * np.nan, same, diagonal).tolist() == [3, 3, 3, 3]
    one_bad = same * np.array([[np.nan], [1], [1], [1]], np.float32)
    assert ranks(same, one_bad, diagonal).tolist() == [3, 3, 3, 3]


def test_a_query_without_a_right_candidate_ranks_last() -> None:
    assert ranks(np.eye(2), np.eye(2), np.array([[0, 0]])).tolist() == [0, 2]


@pytest.mark.parametrize("chunk_elements", [1, 7, 30, 10**6])
def test_chunks_do_not_change_the_ranks(chunk_elements: int) -> None:
    rng = np.random.default_rng(0)
    queries, candidates = rng.normal(size=(11, 5)), rng.normal(size=(10, 5))
    right = np.stack([rng.integers(0, 11, 30), rng.integers(0, 10, 30)], axis=1)
    whole = ranks(queries, candidates, right)
    np.testing.assert_array_equal(ranks(queries, candidates, right, chunk_elements), whole)


def test_hit_rate_is_a_fraction() -> None:
    assert hit_rate(np.array([0, 1, 4, 5]), 5) == 0.75
