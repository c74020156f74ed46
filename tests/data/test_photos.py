"""Photos that are cut as they are decoded: close to what Pillow makes of them; all else is left to Pillow."""

import io
import sys
from dataclasses import replace

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageFilter

from mmjax.data import photos, preprocess
from mmjax.data.augment import AugmentConfig, random_crop
from mmjax.data.bad_records import BadRecords
from mmjax.data.config import DataConfig
from mmjax.data.loader import eval_batches, train_batches
from mmjax.data.opened import open_training
from mmjax.data.photo_headers import ORIENTATION, Photo, opened
from mmjax.data.preprocess import PreprocessConfig
from mmjax.data.records import BadRecord, Record
from mmjax.data.tokenizer import Tokenizer
from mmjax.errors import UserError

SIZES = [(500, 375), (501, 377), (333, 1001), (1600, 1203)]
TOKENIZER = Tokenizer.load("emoji")


def smooth(seed: int, size: tuple[int, int]) -> Image.Image:
    """Colours that change slowly, as those of photos do."""
    small = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2))


def encoded_as(kind: str, image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(image: Image.Image, **options) -> bytes:
    return encoded_as("jpeg", image, quality=90, **options)


KINDS = {"png": {}, "webp": {"quality": 90}, "webp lossless": {"lossless": True}}
"""Formats whose pixels are those of Pillow, and how they are written."""


def exactly(kind: str, image: Image.Image) -> bytes:
    return encoded_as(kind.split()[0], image, **KINDS[kind])


def cut_of(photo: Photo, box: photos.Box, rows: int, columns: int) -> np.ndarray:
    out = np.zeros((rows, columns, 3), np.uint8)
    photos.cut(photo, box, out)
    return out


def assert_close(pixels: np.ndarray, encoded: bytes) -> None:
    """To what Pillow decodes: the fast transform and colours are 1.3 levels off."""
    assert abs(pixels - np.asarray(preprocess.decode(encoded)).astype(float)).mean() < 2.0


@pytest.mark.parametrize("size", SIZES)
def test_the_whole_at_its_size_is_close_to_pillows(size: tuple[int, int]) -> None:
    encoded = jpeg(smooth(0, size))
    photo = opened(encoded)
    assert (photo.width, photo.height) == size
    assert_close(cut_of(photo, (0, 0, *size), size[1], size[0]), encoded)


def gradient(size: tuple[int, int]) -> Image.Image:
    """Red says how far right a pixel is, green how far down, each from 0 to 255."""
    across, down = (np.linspace(0, 255, length) for length in size)
    pixels = np.zeros((size[1], size[0], 3))
    pixels[..., 0], pixels[..., 1], pixels[..., 2] = across, down[:, None], 128
    return Image.fromarray(pixels.round().astype(np.uint8))


@pytest.mark.parametrize("size", SIZES)
def test_parts_lie_where_pillow_cuts_them(size: tuple[int, int]) -> None:
    """At every scale of decoding, and enlarged: to half a pixel of what is decoded, and two levels of the JPEG."""
    encoded = jpeg(gradient(size))
    photo, whole = opened(encoded), preprocess.decode(encoded)
    rng = np.random.default_rng(0)
    for side in (16, 60, 130, 300, 700):
        left, top = rng.uniform(0, size[0] / 2), rng.uniform(0, size[1] / 2)
        box = (left, top, left + size[0] / 2, top + size[1] / 2)
        ours = cut_of(photo, box, side, side).astype(float)
        pillows = np.asarray(whole.resize((side, side), Image.Resampling.BILINEAR, box=box)).astype(float)
        one_pixel = 255 * photos._factor(box, side, side) / np.array(size)
        assert (abs(ours - pillows).mean((0, 1))[:2] < one_pixel / 2 + 2).all()


@pytest.mark.parametrize("side", [20, 40])
def test_parts_are_not_shifted_where_sides_are_rounded_up(side: int) -> None:
    """801 x 603 pixels at an eighth are 101 x 76. A negative tells a shift from what the colours are off."""
    image, box = gradient((801, 603)), (400.0, 296.0, 800.0, 600.0)
    off = []
    for one in (image, Image.fromarray(255 - np.asarray(image))):
        encoded = jpeg(one)
        pillows = preprocess.decode(encoded).resize((side, side), Image.Resampling.BILINEAR, box=box)
        off.append((cut_of(opened(encoded), box, side, side).astype(float) - pillows).mean((0, 1)))
    pixels = (off[0] - off[1])[:2] / 2 / 255 * (801, 603)
    assert (abs(pixels) < 0.5).all()


@pytest.mark.parametrize(("side", "factor"), [(250, 1), (200, 1), (187, 2), (100, 2), (93, 4), (46, 8), (10, 8)])
def test_no_part_is_decoded_with_fewer_pixels_than_are_wanted(side: int, factor: int) -> None:
    assert photos._factor((0, 0, 500, 375), side, side) == factor


def test_a_gray_photo_is_rgb() -> None:
    encoded = jpeg(smooth(2, (64, 48)).convert("L"))
    assert_close(cut_of(opened(encoded), (0, 0, 64, 48), 48, 64), encoded)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_the_whole_of_png_and_webp_is_pillows(kind: str, size: tuple[int, int]) -> None:
    encoded = exactly(kind, smooth(1, size))
    photo = opened(encoded)
    assert (photo.kind, photo.width, photo.height) == (kind.split()[0], *size)
    np.testing.assert_array_equal(cut_of(photo, (0, 0, *size), size[1], size[0]), preprocess.decode(encoded))


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_png_and_webp_lie_where_pillow_cuts_them(kind: str) -> None:
    size = (801, 603)
    encoded = exactly(kind, gradient(size))
    rng = np.random.default_rng(0)
    for side in (16, 33, 60, 130, 300, 700):
        left, top = rng.uniform(0, size[0] / 2), rng.uniform(0, size[1] / 2)
        box = (left, top, left + size[0] / 2, top + size[1] / 2)
        ours = cut_of(opened(encoded), box, side, side).astype(float)
        pillows = preprocess.decode(encoded).resize((side, side), Image.Resampling.BILINEAR, box=box)
        # Half a pixel is a sixth of a level to the right, and a fifth down.
        assert abs(ours - pillows)[..., :2].mean() < 0.8


def test_a_reduced_png_has_the_mean_of_its_pixels() -> None:
    """And not every eighth of them, which of stripes is one colour."""
    stripes = np.zeros((480, 640, 3), np.uint8)
    stripes[:, ::2] = 255
    part = cut_of(opened(encoded_as("png", Image.fromarray(stripes))), (0, 0, 640, 480), 24, 32)
    assert abs(part.astype(float) - 127.5).max() <= 1


def not_plain() -> dict[str, bytes | np.ndarray | None]:
    image = smooth(3, (64, 48))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    clear, other = image.convert("RGBA"), smooth(4, (64, 48))
    clear.putalpha(100)
    return {
        "jpeg turned": jpeg(image, exif=exif),
        "jpeg cmyk": jpeg(image.convert("CMYK")),
        "png turned": encoded_as("png", image, exif=exif),
        "png palette": encoded_as("png", image.convert("P")),
        "png gray": encoded_as("png", image.convert("L")),
        "png 16 bits": encoded_as("png", Image.fromarray(np.zeros((48, 64), np.uint16))),
        "png clear": encoded_as("png", clear),
        "png one colour clear": encoded_as("png", image, transparency=(1, 2, 3)),
        "png moving": encoded_as("png", image, save_all=True, append_images=[other]),
        "webp turned": encoded_as("webp", image, exif=exif),
        "webp clear": encoded_as("webp", clear),
        "webp lossless clear": encoded_as("webp", clear, lossless=True),
        "webp moving": encoded_as("webp", image, save_all=True, append_images=[other]),
        "gif": encoded_as("gif", image),
        "none": None,
        "pixels": np.asarray(image),
        "nothing": b"",
        "jpeg of nine bytes": bytes.fromhex("ffd8ffc0000308ffda"),
        "cut off": encoded_as("webp", image)[:20],
    }


@pytest.mark.parametrize("name", not_plain())
def test_what_is_no_plain_photo_is_left_to_pillow(name: str) -> None:
    assert opened(not_plain()[name]) is None


def test_what_xmp_turns_is_left_to_pillow() -> None:
    image, exif = smooth(3, (64, 48)), Image.Exif()
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:'
    xmp += b'Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    assert opened(jpeg(image, xmp=xmp)) is None
    exif[ORIENTATION] = 1
    assert opened(jpeg(image, exif=exif)) is not None


def test_a_damaged_photo_is_bad_and_an_untidy_one_is_not() -> None:
    encoded = jpeg(smooth(4, (64, 48)))
    with pytest.raises(BadRecord, match="cannot be decoded"):
        cut_of(opened(encoded[:-200]), (0, 0, 64, 48), 48, 64)
    assert opened(b"\xff\xd8nothing") is None, "Pillow says what is wrong with it"
    # Bytes behind the last row: simplejpeg refuses what libjpeg-turbo warns of.
    untidy = encoded[:-2] + 500 * b"\x11" + encoded[-2:]
    with pytest.raises(ValueError, match="extraneous"):
        simplejpeg.decode_jpeg(untidy)
    assert_close(cut_of(opened(untidy), (0, 0, 64, 48), 48, 64), encoded)


@pytest.mark.parametrize("kind", KINDS)
def test_png_and_webp_are_damaged_where_pillow_says_so(kind: str) -> None:
    whole, refused = exactly(kind, smooth(4, (64, 48))), 0
    for size in (*range(40, len(whole) - 24, 97), *range(len(whole) - 24, len(whole))):
        photo = opened(whole[:size])
        try:
            pillows = np.asarray(preprocess.decode(whole[:size]))
        except BadRecord:
            refused += 1
            with pytest.raises(BadRecord, match="cannot be decoded"):
                cut_of(photo, (0, 0, 64, 48), 48, 64)
        else:
            np.testing.assert_array_equal(cut_of(photo, (0, 0, 64, 48), 48, 64), pillows)
    assert refused > 20


def test_the_part_is_the_one_that_pillow_would_have_cut() -> None:
    config = AugmentConfig(crop_area=(0.2, 0.9))
    encoded = jpeg(gradient((320, 240)))
    parts, out = [], np.zeros((40, 40, 3), np.uint8)
    for seed in range(5):
        ours, pillows = (
            np.asarray(random_crop(image, config, np.random.default_rng(seed), out)).astype(float)
            for image in (opened(encoded), preprocess.decode(encoded))
        )
        # Decoded at a half, a pixel is 2.1 levels of its place.
        assert abs(ours - pillows).mean() < 2.0
        parts.append(ours.mean((0, 1))[:2])
    assert np.ptp(parts, axis=0).min() > 10


class Photos:
    """JPEGs, of which some are cut off."""

    def __init__(self, broken: tuple[int, ...] = ()):
        self.images = [jpeg(gradient((80, 60 + seed))) for seed in range(10)]
        for index in broken:
            self.images[index] = self.images[index][:-100]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Record:
        return Record(self.images[index], (f"photo {index}",), None, f"photo {index}")


CONFIG = DataConfig(
    batch_size=10,
    text_len=8,
    preprocess=PreprocessConfig(image_size=24),
    augment=AugmentConfig(crop_area=(0.2, 1.0), decoder="turbo"),
    num_threads=2,
)


def batches(config: DataConfig, source: Photos, **options) -> list:
    return list(train_batches(config, source, TOKENIZER, seed=1, start_step=0, num_steps=3, **options))


def test_batches_of_photos_are_close_to_those_of_pillow_and_the_same_every_time() -> None:
    ours, again = batches(CONFIG, Photos()), batches(replace(CONFIG, num_threads=0, cache_bytes=0), Photos())
    pillows = batches(replace(CONFIG, augment=replace(CONFIG.augment, decoder="pillow")), Photos())
    for mine, same, other in zip(ours, again, pillows, strict=True):
        np.testing.assert_array_equal(mine["image"], same["image"])
        np.testing.assert_array_equal(mine["text_ids"], other["text_ids"])
        # Half a pixel is 1.6 levels of its place, in two of three channels.
        assert 0 < abs(mine["image"].astype(float) - other["image"]).mean() < 1.6


def test_other_changes_see_the_part() -> None:
    flipped = batches(replace(CONFIG, augment=replace(CONFIG.augment, flip_rate=1.0)), Photos())
    for mine, other in zip(batches(CONFIG, Photos()), flipped, strict=True):
        np.testing.assert_array_equal(mine["image"], other["image"][:, :, ::-1])


def test_photos_that_are_cut_off_keep_their_rows() -> None:
    listed = BadRecords(10, max_share=0.5)
    batch = batches(CONFIG, Photos(broken=(3, 7)), bad_records=listed)[0]
    assert batch["weights"].sum() == 8
    assert not batch["image"][batch["weights"] == 0].any()
    assert listed.count == 2
    with pytest.raises(UserError, match=r"2 of the 10 records seen are bad, .*photo [37]: its image cannot be decoded"):
        batches(replace(CONFIG, max_bad_share=0.1), Photos(broken=(3, 7)))


def test_evaluation_is_pillows() -> None:
    for mine, other in zip(
        eval_batches(CONFIG, Photos(), TOKENIZER, batch_size=5),
        eval_batches(replace(CONFIG, augment=AugmentConfig()), Photos(), TOKENIZER, batch_size=5),
        strict=True,
    ):
        np.testing.assert_array_equal(mine["image"], other["image"])


def test_what_is_missing_is_named_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    photos.libraries.cache_clear()
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    named = r"'turbo' needs cv2 and simplejpeg: pip install -r requirements-photos.txt"
    with pytest.raises(UserError, match=named):
        open_training(CONFIG)
    # Evaluation has no need of them.
    assert len(list(eval_batches(CONFIG, Photos(), TOKENIZER, batch_size=5))) == 2
    with pytest.raises(UserError, match="data.augment.decoder 'turbojpeg' does not exist: did you mean turbo"):
        AugmentConfig(decoder="turbojpeg")
