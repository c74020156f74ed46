"""The evaluation transform: sizes, transparency, what is cut, errors, and the fingerprint."""

import dataclasses
import io
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from mmjax.data.preprocess import INTERPOLATIONS, MOST_PIXELS, PreprocessConfig, decode, preprocess
from mmjax.data.records import BadRecord
from mmjax.errors import UserError
from tests.data.tiny_sources import png


def encode(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def saved(size: tuple[int, int], mode: str, kind: str, **options: Any) -> bytes:
    """A noisy image of `size` (columns, rows) as a file."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rotated(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


FILES = {
    "jpeg": saved((50, 33), "RGB", "jpeg"),
    "grey jpeg": saved((33, 50), "L", "jpeg"),
    "cmyk jpeg": saved((33, 50), "CMYK", "jpeg"),
    "png": saved((50, 33), "RGB", "png"),
    "webp": saved((41, 60), "RGB", "webp"),
    "transparent webp": saved((41, 60), "RGBA", "webp", lossless=True),
    "transparent png": saved((31, 20), "RGBA", "png"),
    "grey transparent png": saved((31, 20), "LA", "png"),
    "one transparent colour": saved((40, 20), "L", "png", transparency=7),
    "transparent palette": saved((40, 29), "P", "png", transparency=3),
    "bilevel": saved((40, 29), "1", "png"),
    **{f"turned {how}": saved((50, 33), "RGB", "jpeg", exif=rotated(how)) for how in range(1, 9)},
    "turned png": saved((50, 33), "RGBA", "png", exif=rotated(6)),
    "wide": saved((400, 3), "RGB", "png"),
    "tall": saved((3, 400), "RGB", "png"),
    "one row": saved((90, 1), "RGB", "png"),
    "smaller": saved((9, 5), "RGB", "png"),
    "one pixel": saved((1, 1), "RGB", "png"),
    "of that size": saved((16, 16), "RGB", "png"),
    "of that height": saved((33, 16), "RGB", "png"),
    "odd to cut": saved((37, 36), "RGB", "png"),
}


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos"])
@pytest.mark.parametrize("name", FILES)
def test_pixels_are_those_of_hugging_face(name: str, interpolation: str) -> None:
    transformers = pytest.importorskip("transformers")
    raw = {"resample": INTERPOLATIONS[interpolation], "do_rescale": False, "do_normalize": False}
    processors = {
        "crop": transformers.CLIPImageProcessorPil(
            size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, **raw
        ),
        "squash": transformers.SiglipImageProcessorPil(size={"height": 16, "width": 16}, **raw),
    }
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(FILES[name])))
    for resize, processor in processors.items():
        config = PreprocessConfig(image_size=16, resize=resize, interpolation=interpolation)
        (expected,) = processor(upright, return_tensors="np")["pixel_values"]
        np.testing.assert_array_equal(preprocess(FILES[name], config), expected.transpose(1, 2, 0), resize)


def test_exif_turns_the_image() -> None:
    assert decode(FILES["turned 6"]).size == (33, 50)
    assert decode(FILES["turned 3"]).size == (50, 33)


def test_rectangles() -> None:
    config = PreprocessConfig(image_size=8, image_width=12)
    assert config.image_shape == (8, 12)
    squashed = preprocess(FILES["png"], config)
    np.testing.assert_array_equal(squashed, decode(FILES["png"]).resize((12, 8), Image.Resampling.BICUBIC))
    as_it_is = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)
    np.testing.assert_array_equal(preprocess(as_it_is, config), as_it_is)


def test_a_cut_is_of_a_square() -> None:
    with pytest.raises(UserError, match="image_width = 12 is not image_size 8: leave it out, or set resize to"):
        PreprocessConfig(image_size=8, image_width=12, resize="crop")


@pytest.mark.parametrize("shape", [(1, 1_000_000, 3), (1_000_000, 1, 3)], ids=["wide", "tall"])
def test_a_thread_of_an_image_takes_bounded_memory(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    whole = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda image, size, *args: sizes.append(size) or whole(image, size, *args)
    )
    pixels = np.zeros(shape, np.uint8)
    pixels.reshape(-1, 3)[500_000:] = 255
    image = preprocess(pixels, PreprocessConfig(image_size=512, resize="crop"))
    assert max(width * height for width, height in sizes) <= MOST_PIXELS
    # The middle of the image, where black meets white, is the middle of what comes out.
    first, second = (side.mean() for side in np.split(image, 2, axis=int(np.argmax(shape[:2]))))
    assert first < second - 50
    assert first + second == pytest.approx(255, abs=1)


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
        {"image_width": 32},
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
