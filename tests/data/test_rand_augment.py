"""RandAugment's changes are what numpy makes of their definitions, as strong as asked for, and evenly drawn."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from mmjax.data import rand_augment
from mmjax.data.augment import LUMA, AugmentConfig, augment, generator
from mmjax.data.rand_augment import CHANGES, NAMES
from mmjax.errors import UserError

SIDE, FILL = 40, 9
PIXELS = np.random.default_rng(0).integers(20, 220, (SIDE, SIDE, 3), np.uint8)
IMAGE = Image.fromarray(PIXELS)
ALWAYS = ("auto_contrast", "equalize")
"""Changes without a magnitude."""


def changed(name: str, share: float, image: Image.Image = IMAGE) -> np.ndarray:
    return np.asarray(CHANGES[name](image, share, FILL)).astype(float)


def test_there_are_the_papers_fourteen() -> None:
    assert len(NAMES) == 14


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ALWAYS])
def test_of_no_magnitude_nothing_is_changed(name: str) -> None:
    np.testing.assert_array_equal(changed(name, 0.0), PIXELS)


def blended(other: np.ndarray, strength: float) -> np.ndarray:
    """Further away from the other image for strengths above 1, and towards it below."""
    return np.clip(other + strength * (PIXELS - other), 0, 255)


GRAY = (PIXELS @ np.array(LUMA)).round()[..., None]


@pytest.mark.parametrize("share", [-1.0, -0.5, 0.3, 1.0])
@pytest.mark.parametrize(
    ("name", "other"),
    [("colour", GRAY), ("brightness", np.zeros(3)), ("contrast", np.full(3, (GRAY.mean() + 0.5) // 1))],
)
def test_strengths_are_blends(name: str, other: np.ndarray, share: float) -> None:
    # Pillow cuts what is behind the point off.
    np.testing.assert_allclose(changed(name, share), blended(other, 1 + 0.9 * share), atol=1.5)


def test_sharpness_is_of_neighbours() -> None:
    padded = PIXELS.astype(float)
    neighbours = sum(
        np.roll(padded, (y, x), (0, 1)) * (5 if (y, x) == (0, 0) else 1) for y in (-1, 0, 1) for x in (-1, 0, 1)
    )
    inside = (slice(1, -1), slice(1, -1))
    for share in (-1.0, 0.5):
        expected = blended(neighbours / 13, 1 + 0.9 * share)
        np.testing.assert_allclose(changed("sharpness", share)[inside], expected[inside], atol=2.5)


@pytest.mark.parametrize(("share", "bits"), [(1.0, 4), (-1.0, 4), (0.5, 6), (0.25, 7)])
def test_posterize_leaves_bits(share: float, bits: int) -> None:
    np.testing.assert_array_equal(changed("posterize", share), PIXELS >> (8 - bits) << (8 - bits))


@pytest.mark.parametrize(("share", "threshold"), [(1.0, 0), (-0.5, 128), (0.25, 192)])
def test_solarize_inverts_from_a_level_on(share: float, threshold: int) -> None:
    np.testing.assert_array_equal(changed("solarize", share), np.where(threshold > PIXELS, PIXELS, 255 - PIXELS))


def test_contrast_and_levels_without_magnitude() -> None:
    levels = changed("auto_contrast", 0.9)
    low, high = PIXELS.min((0, 1)).astype(float), PIXELS.max((0, 1))
    np.testing.assert_allclose(levels, (PIXELS - low) * 255 / (high - low), atol=1.5)
    even = changed("equalize", 0.9)
    for colour in range(3):
        assert abs(np.quantile(even[..., colour], [0.25, 0.5, 0.75]) - [64, 128, 191]).max() < 12


@pytest.mark.parametrize("share", [-1.0, 0.5])
def test_shifts_are_of_the_side(share: float) -> None:
    shift = 150 / 331 * SIDE * share
    whole = round(shift)
    for name, axis in (("translate_x", 1), ("translate_y", 0)):
        # Between two pixels, in the proportion of the rest.
        rest = shift - np.floor(shift)
        first = np.roll(PIXELS, -int(np.floor(shift)), axis).astype(float)
        expected = (1 - rest) * first + rest * np.roll(first, -1, axis)
        kept = slice(2, SIDE - abs(whole) - 2) if share > 0 else slice(abs(whole) + 2, SIDE - 2)
        inside = (slice(None), kept) if axis else (kept,)
        np.testing.assert_allclose(changed(name, share)[inside], expected[inside], atol=1.5)
        edge = changed(name, share).take(-1 if share > 0 else 0, axis)
        assert (edge == FILL).all()


def test_shears_move_lines_by_their_distance_from_the_middle() -> None:
    middle = Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8))
    middle.paste((255, 255, 255), (SIDE // 2 - 1, 0, SIDE // 2 + 1, SIDE))
    sheared = CHANGES["shear_x"](middle, 1.0, 0)
    places = [float(np.average(np.arange(SIDE), weights=row[:, 0])) for row in np.asarray(sheared).astype(float)]
    np.testing.assert_allclose(np.diff(places), -0.3, atol=0.06)
    assert abs(places[SIDE // 2] - (SIDE - 1) / 2) < 0.5
    turned = CHANGES["shear_y"](middle.transpose(Image.Transpose.TRANSPOSE), 1.0, 0)
    np.testing.assert_array_equal(np.asarray(turned).transpose(1, 0, 2), np.asarray(sheared))


def test_a_turn_is_of_thirty_degrees_at_most() -> None:
    line = Image.fromarray(np.zeros((101, 101, 3), np.uint8))
    line.paste((255, 255, 255), (50, 0, 51, 51))
    seen = np.asarray(CHANGES["rotate"](line, 1.0, 0))[..., 0].astype(float)
    rows, columns = np.nonzero(seen > 100)
    far = np.hypot(rows - 50, columns - 50) > 30
    angles = np.degrees(np.arctan2(50 - columns[far], 50 - rows[far]))
    assert abs(angles.mean() - 30) < 1


def test_changes_and_their_signs_are_drawn_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: Counter = Counter()

    def recorded(name: str):
        return lambda image, share, fill: (drawn.update([(name, share)]), image)[1]

    monkeypatch.setattr(rand_augment, "CHANGES", {name: recorded(name) for name in NAMES})
    config = AugmentConfig(rand_augment_changes=2, rand_augment_magnitude=7.0)
    for position in range(1400):
        augment(IMAGE, config, generator(0, position))
    assert drawn.total() == 2800
    assert set(drawn) == {(name, sign * 0.7) for name in NAMES for sign in (1, -1)}
    # A hundred of each: within five standard deviations.
    assert all(50 < count < 150 for count in drawn.values())


def test_it_leaves_the_draws_of_other_changes_alone() -> None:
    others = AugmentConfig(rotate_degrees=20, hue_degrees=20, erase_rate=1.0, erase_area=(0.2, 0.2))
    both = AugmentConfig(**{**vars(others), "rand_augment_changes": 3, "rand_augment_magnitude": 0.0})
    unchanged = 0
    for position in range(40):
        plain, more = (np.asarray(augment(IMAGE, config, generator(3, position))) for config in (others, both))
        unchanged += np.array_equal(plain, more)
    # At magnitude 0 only two of the fourteen change anything: (12 / 14)^3 = 0.63 of the examples are as before.
    assert 15 < unchanged < 35


def test_an_example_is_the_same_every_time() -> None:
    config = AugmentConfig(rand_augment_changes=2)
    first, again, other = (np.asarray(augment(IMAGE, config, generator(0, position))) for position in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rand_augment_changes": -1}, "rand_augment_changes = -1 is below 0"),
        ({"rand_augment_magnitude": 11.0}, "rand_augment_magnitude = 11.0 is not between 0 and 10"),
    ],
)
def test_errors_are_one_line(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        AugmentConfig(**settings)
