import jax.numpy as jnp
import pytest

from mmjax.evals.retrieval import RetrievalEval
from mmjax.evals.seen import Seen
from tests.evals.eval_fakes import FakeRecord, encoders, mesh_of, split_of

PARAMS = {"turn": jnp.float32(1)}


def recalls(records: list[FakeRecord], batch_size: int = 4, angles: dict[str, int] | None = None) -> dict[str, float]:
    return RetrievalEval().score(Seen(encoders(mesh_of()), split_of(records, batch_size, angles), PARAMS))


def test_four_examples_by_hand() -> None:
    """Images at 0, 30, 90 and 100 degrees, their captions at 5, 60, 91 and 80.

    Image 0 is nearest to 5 (right); 30 is nearest to 5 (25 away) and not to its own 60 (30 away); 90 is nearest to 91
    (right); 100 is nearest to 91 and then 80. Caption 5 is nearest to 0 (right); 60 is 30 from both 30 and 90, a tie
    that counts against the model; 91 is nearest to 90 (right); 80 is nearest to 90 and then 100.
    """
    places = [(0, 5), (30, 60), (90, 91), (100, 80)]
    result = recalls([FakeRecord(image, (str(text),)) for image, text in places])
    assert result["image_to_text/r@1"] == 0.5
    assert result["text_to_image/r@1"] == 0.5
    assert result["image_to_text/r@5"] == result["text_to_image/r@10"] == 1.0
    assert result["num_candidates"] == result["num_images"] == 4


def test_equal_captions_are_one_candidate_and_count_as_right() -> None:
    records = [FakeRecord(0, ("40",)), FakeRecord(90, ("40",)), FakeRecord(180, ("180",))]
    result = recalls(records)
    assert result["num_candidates"] == 2
    assert result["num_images"] == 3
    assert result["image_to_text/r@1"] == 1.0
    assert result["text_to_image/r@1"] == 1.0


def test_identical_images_are_one_and_any_of_their_captions_is_right() -> None:
    records = [FakeRecord(0, ("1",)), FakeRecord(0, ("45",)), FakeRecord(90, ("90",))]
    result = recalls(records)
    assert (result["num_candidates"], result["num_images"]) == (3, 2)
    assert result["image_to_text/r@1"] == 1.0
    # "45" lies as near to the image at 90 as to its own: the tie is counted as wrong.
    assert result["text_to_image/r@1"] == pytest.approx(2 / 3)


def test_only_the_main_caption_is_scored_and_bad_rows_are_left_out() -> None:
    records = [FakeRecord(0, ("0", "90")), FakeRecord(90, ("90",)), FakeRecord(45, ("0",), weight=0.0)]
    result = recalls(records, batch_size=2)
    assert (result["num_candidates"], result["num_images"]) == (2, 2)
    assert result["image_to_text/r@1"] == 1.0


def test_a_collapsed_model_scores_zero() -> None:
    records = [FakeRecord(angle, (str(angle),)) for angle in range(12)]
    split = split_of(records, batch_size=4)
    result = RetrievalEval().score(Seen(encoders(mesh_of()), split, {"turn": jnp.float32(0)}))
    assert result["image_to_text/r@10"] == result["text_to_image/r@10"] == 0.0


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2)])
def test_eight_devices_and_a_ragged_batch_give_the_numbers_of_one_device(sizes: tuple[int, int, int]) -> None:
    records = [FakeRecord(17 * row % 360, (str((17 * row + 3 * row * row) % 360),)) for row in range(21)]
    one = RetrievalEval().score(Seen(encoders(mesh_of()), split_of(records, 8), PARAMS))
    many = RetrievalEval().score(Seen(encoders(mesh_of(*sizes)), split_of(records, 8), PARAMS))
    assert many == one
    assert 0 < one["image_to_text/r@1"] < 1


def test_pairs_point_back_to_rows_in_the_order_of_the_split() -> None:
    records = [FakeRecord(90, ("Nine",)), FakeRecord(0, ("5",)), FakeRecord(90, ("5",)), FakeRecord(7, ("nine ",))]
    split = split_of(records, 4, {"Nine": 9})
    towers = encoders(mesh_of())
    pairs = Seen(towers, split, PARAMS).pairs
    assert pairs.captions == ("Nine", "5")
    assert pairs.rows.tolist() == [0, 1, 3]
    assert pairs.right.tolist() == [[0, 0], [0, 1], [1, 1], [2, 0]]
