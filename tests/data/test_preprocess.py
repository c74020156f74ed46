"""The evaluation transform: sizes, transparency, what is cut, errors, and the fingerprint."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from mmjax.data.preprocess import PreprocessConfig, decode, preprocess
from mmjax.data.records import BadRecord
from mmjax.errors import UserError
from tests.data.tiny_sources import png


def encode(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_output_is_square_uint8_and_the_same_again(resize: str) -> None:
    config = PreprocessConfig(image_size=8, resize=resize)
    image = preprocess(png(0), config)
    assert image.shape == (8, 8, 3)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, preprocess(png(0), config))


def test_crop_keeps_the_middle_and_squash_keeps_all() -> None:
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, 8:16] = 255
    assert preprocess(pixels, PreprocessConfig(image_size=8, resize="crop")).min() == 255
    assert preprocess(pixels, PreprocessConfig(image_size=8, resize="squash")).min() == 0


def test_transparent_parts_are_white() -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    assert np.asarray(decode(encode(pixels))).min() == 255


@pytest.mark.parametrize("image", [b"", b"not an image", png(0)[:60], np.zeros((2, 2), complex)])
def test_what_cannot_be_decoded_is_a_bad_record(image: bytes | np.ndarray) -> None:
    with pytest.raises(BadRecord, match="cannot be decoded"):
        decode(image)


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 32},
        {"resize": "crop"},
        {"interpolation": "lanczos"},
    ],
)
def test_every_setting_changes_the_fingerprint(change: dict) -> None:
    config = PreprocessConfig()
    assert dataclasses.replace(config, **change).fingerprint() != config.fingerprint()
    assert PreprocessConfig().fingerprint() == config.fingerprint()


def test_unknown_settings_name_the_nearest() -> None:
    with pytest.raises(UserError, match=r"data.preprocess.interpolation 'bicubik' .* bicubic"):
        PreprocessConfig(interpolation="bicubik")
    with pytest.raises(UserError, match=r"data.preprocess.resize 'squish' .* squash"):
        PreprocessConfig(resize="squish")
