import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.errors import UserError
from mmjax.evals.embed import embed_images, embed_texts
from tests.evals.eval_fakes import FakeRecord, encoders, mesh_of, split_of

PARAMS = {"turn": jnp.float32(1)}
ANGLES = [0, 10, 20, 300, 40, 50, 60, 10, 80, 90, 100]


def expected(angles: list[int]) -> np.ndarray:
    radians = np.deg2rad(angles)
    return np.stack([np.cos(radians), np.sin(radians)], axis=-1)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (8, 1, 1), (2, 2, 2)])
def test_a_ragged_split_embeds_exactly_on_any_mesh(sizes: tuple[int, int, int]) -> None:
    towers = encoders(mesh_of(*sizes))
    split = split_of([FakeRecord(angle, (str(angle),)) for angle in ANGLES], batch_size=8)
    images = embed_images(towers, PARAMS, split.batches())
    texts = embed_texts(towers, PARAMS, split.tokenize, [str(angle) for angle in ANGLES], batch_size=8)
    np.testing.assert_allclose(images.embeds, expected(ANGLES), atol=1e-5)
    np.testing.assert_allclose(texts.embeds, expected(ANGLES), atol=1e-5)
    assert images.rows.tolist() == list(range(len(ANGLES)))


def test_rows_of_weight_zero_are_left_out_and_identical_pixels_are_seen() -> None:
    records = [FakeRecord(angle, ("0",), weight=float(angle != 20)) for angle in ANGLES]
    images = embed_images(encoders(mesh_of()), PARAMS, split_of(records, batch_size=4).batches())
    assert images.rows.tolist() == [0, 1, 3, 4, 5, 6, 7, 8, 9, 10]
    assert images.digests[1] == images.digests[6]
    assert len(set(images.digests.tolist())) == 9


def test_text_batches_are_rounded_up_to_the_mesh() -> None:
    towers = encoders(mesh_of(8))
    split = split_of([], batch_size=3)
    texts = embed_texts(towers, PARAMS, split.tokenize, ["30", "60", "90"], batch_size=3)
    np.testing.assert_allclose(texts.embeds, expected([30, 60, 90]), atol=1e-5)


def test_a_split_without_readable_images_is_one_clear_error() -> None:
    records = [FakeRecord(0, ("0",), weight=0.0)]
    with pytest.raises(UserError, match="no readable image"):
        embed_images(encoders(mesh_of()), PARAMS, split_of(records, batch_size=4).batches())
