"""Augmentation: defaults change nothing, each change does what its name says, draws depend on (seed, position)."""

import numpy as np
import pytest
from PIL import Image

from mmjax.data.augment import AugmentConfig, augment, generator, random_crop

PIXELS = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
IMAGE = Image.fromarray(PIXELS)
STRONG = AugmentConfig(
    rotate_degrees=20, shear_degrees=10, zoom=(0.7, 1.3), translate=0.1, flip_rate=0.5, brightness=0.3, contrast=0.3,
    saturation=0.3, hue_degrees=30, gray_rate=0.2, blur_rate=0.5, erase_rate=0.5,
)  # fmt: skip


def apply(config: AugmentConfig, position: int = 0, seed: int = 0) -> np.ndarray:
    return np.asarray(augment(IMAGE, config, generator(seed, position)))


def test_the_defaults_change_nothing() -> None:
    np.testing.assert_array_equal(apply(AugmentConfig()), PIXELS)


def test_draws_depend_on_seed_and_position_alone() -> None:
    np.testing.assert_array_equal(apply(STRONG, 5), apply(STRONG, 5))
    assert not np.array_equal(apply(STRONG, 5), apply(STRONG, 6))
    assert not np.array_equal(apply(STRONG, 5), apply(STRONG, 5, seed=1))


def test_flip_mirrors() -> None:
    np.testing.assert_array_equal(apply(AugmentConfig(flip_rate=1.0)), PIXELS[:, ::-1])


def test_a_right_angle_turns_about_the_middle() -> None:
    turns = {90: np.rot90(PIXELS, -1), -90: np.rot90(PIXELS)}
    config = AugmentConfig(rotate_degrees=90.0)
    # The two ends of the range are never drawn exactly, so the angle is compared with the nearer end.
    places = {angle: min(range(200), key=lambda place: abs(_angle(place) - angle)) for angle in turns}
    for angle, expected in turns.items():
        difference = np.abs(apply(config, places[angle]).astype(int) - expected)[2:-2, 2:-2]
        assert difference.mean() < 20 < np.abs(PIXELS.astype(int) - expected).mean()


def _angle(position: int) -> float:
    return -90.0 + 180.0 * generator(0, position).random(16)[0]


def test_what_comes_in_from_outside_is_the_fill() -> None:
    small = apply(AugmentConfig(zoom=(0.5, 0.5), fill=7))
    assert (small[0] == 7).all()


def test_hue_keeps_gray_and_gray_rate_makes_gray() -> None:
    gray = Image.fromarray(np.full((4, 4, 3), 100, np.uint8))
    turned = np.asarray(augment(gray, AugmentConfig(hue_degrees=180.0), generator(0, 0)))
    assert np.abs(turned.astype(int) - 100).max() <= 1
    made = apply(AugmentConfig(gray_rate=1.0)).astype(int)
    assert np.abs(made - np.asarray(IMAGE.convert("L"), int)[..., None]).max() <= 1


def test_brightness_scales_and_contrast_keeps_the_middle() -> None:
    middle = Image.fromarray(np.full((4, 4, 3), 128, np.uint8))
    assert (np.asarray(augment(middle, AugmentConfig(contrast=0.5), generator(0, 0))) == 128).all()
    levels = {
        int(np.asarray(augment(middle, AugmentConfig(brightness=0.5), generator(0, k)))[0, 0, 0]) for k in range(40)
    }
    assert 64 <= min(levels) < 100 < 156 < max(levels) <= 192


def test_erasing_paints_a_rectangle_and_leaves_the_original() -> None:
    erased = apply(AugmentConfig(erase_rate=1.0, erase_area=(0.25, 0.25)))
    share = (erased != PIXELS).any(axis=-1).mean()
    assert 0.1 < share < 0.4
    np.testing.assert_array_equal(np.asarray(IMAGE), PIXELS)


def test_blur_smooths() -> None:
    assert apply(AugmentConfig(blur_rate=1.0)).std() < PIXELS.std()


@pytest.mark.parametrize("position", range(5))
def test_random_crop_resizes_a_part(position: int) -> None:
    config = AugmentConfig(crop_area=(0.1, 1.0))
    assert config.crops
    assert not AugmentConfig().crops
    photo = Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 50, 3), np.uint8))
    square, wide = (np.zeros((8, columns, 3), np.uint8) for columns in (8, 12))
    assert random_crop(photo, config, generator(0, position), square).size == (8, 8)
    assert random_crop(photo, config, generator(0, position), wide).size == (12, 8)


@pytest.mark.parametrize(("seed", "position"), [(0, 0), (7, 5), (3, 2**33 + 5), (2**40 + 1, 2**32 - 1)])
def test_draws_are_numpys_of_seed_and_position(seed: int, position: int) -> None:
    assert generator(seed, position).random() == np.random.default_rng([seed, position]).random()
