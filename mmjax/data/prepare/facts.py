"""What is known of each record of a part of the source: whether it can be used, its hashes, its sizes, its caption."""

import hashlib
import io
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from PIL import Image

from mmjax.data import preprocess
from mmjax.data.optional import imported
from mmjax.data.prepare.settings import LANGUAGES, LICENCES, Settings
from mmjax.data.records import BadRecord, Record, Source, Unreachable
from mmjax.errors import UserError

KEPT = ""
UNREADABLE = "unreadable"
LICENCE_TYPE = "U64"
"""What is counted of a licence: its first 64 letters."""
MOST_SAID = 100
"""Unreadable records of a part whose reason is kept in full."""


@dataclass(frozen=True)
class Facts:
    """Of n records of the source, from `start` on. `reasons` says for what each is dropped, "" where it is not.

    exact is uint64 (n, 2), half of the SHA-256 of the encoded image; looks uint64 (n,), the perceptual hash; sides
    int32 (n, 2), width and height; chars and words int32 (n,), of the main caption; formats and languages (n,) short
    names; licences (n,) as the data says them, "" where it does not. said are names of records and what is wrong with
    them.
    """

    start: int
    reasons: np.ndarray
    exact: np.ndarray
    looks: np.ndarray
    sides: np.ndarray
    chars: np.ndarray
    words: np.ndarray
    formats: np.ndarray
    languages: np.ndarray
    licences: np.ndarray
    said: np.ndarray

    def to_bytes(self) -> bytes:
        """What `load` reads."""
        buffer = io.BytesIO()
        np.savez(buffer, **vars(self))
        return buffer.getvalue()

    @staticmethod
    def load(file: IO[bytes]) -> "Facts":
        with np.load(file) as found:
            return Facts(int(found["start"]), **{name: found[name] for name in found.files if name != "start"})


def gather(settings: Settings, source: Source, numbers: range) -> Facts:
    """The facts of these records."""
    size = len(numbers)
    found = Facts(
        numbers.start,
        reasons=np.full(size, KEPT, "U16"),
        exact=np.zeros((size, 2), np.uint64),
        looks=np.zeros(size, np.uint64),
        sides=np.zeros((size, 2), np.int32),
        chars=np.zeros(size, np.int32),
        words=np.zeros(size, np.int32),
        formats=np.full(size, "", "U8"),
        languages=np.full(size, "", "U8"),
        licences=np.full(size, "", LICENCE_TYPE if settings.licence_key else "U1"),
        said=np.array([], "U200"),
    )
    said = []
    for row, number in enumerate(numbers):
        name = f"record {number}"
        try:
            record = source[number]
            name = record.name
            _fill(found, row, record, settings)
        except Unreachable as error:
            raise UserError(f"{error}: run the same command again, and it goes on from here") from error
        except BadRecord as error:
            found.reasons[row] = UNREADABLE
            said.append(f"{name}: {error}"[:200])
    return Facts(**{**vars(found), "said": np.array(said[:MOST_SAID], "U200")})


def _fill(found: Facts, row: int, record: Record, settings: Settings) -> None:
    image, caption = preprocess.decode(record.image), record.captions[0]
    found.exact[row] = exact_hash(record.image)
    found.sides[row] = image.size
    found.chars[row], found.words[row] = len(caption), len(caption.split())
    found.formats[row] = _format(record.image)
    if settings.measure == "perceptual":
        found.looks[row] = perceptual_hash(image)
    found.languages[row], found.licences[row] = language(caption), record.licence
    found.reasons[row] = _refusal(found, row, settings, record.licence)


def _refusal(found: Facts, row: int, settings: Settings, licence: str) -> str:
    """The first filter that the record does not pass."""
    short, long = sorted(map(int, found.sides[row]))
    values = {"side": short, "ratio": long / short, "chars": int(found.chars[row]), "words": int(found.words[row])}
    names = {LANGUAGES: str(found.languages[row]), LICENCES: licence}
    for name, wanted in settings.filters:
        if name in names:
            passes = names[name] in [one.strip() for one in wanted.split(",")]
        else:
            bound, _, what = name.partition("_")
            passes = values[what] >= float(wanted) if bound == "min" else values[what] <= float(wanted)
        if not passes:
            return name
    return KEPT


def exact_hash(image: bytes | np.ndarray | None) -> np.ndarray:
    """uint64 (2,): half of the SHA-256 of the bytes."""
    content = image if isinstance(image, bytes) else np.asarray(image).tobytes()
    return np.frombuffer(hashlib.sha256(content).digest()[:16], np.uint64)


def perceptual_hash(image: Image.Image) -> np.uint64:
    """The pHash of 64 bits, signs of the lowest frequencies (Zauner 2010, section 3.2.1), as `imagehash` has it."""
    bits = libraries()[0].phash(image).hash
    return np.packbits(bits).view(np.uint64)[0]


def language(text: str) -> str:
    """The code of its language, as `py3langid` finds it (Lui and Baldwin 2012)."""
    code: str = libraries()[1].classify(text)[0]
    return code


def libraries() -> tuple[Any, Any]:
    """imagehash, and py3langid.

    Raises:
        UserError: they are not installed.
    """
    imagehash, py3langid = imported("preparing data", "requirements-prepare.txt", "imagehash", "py3langid")
    return imagehash, py3langid


def _format(image: bytes | np.ndarray | None) -> str:
    return (Image.open(io.BytesIO(image)).format or "") if isinstance(image, bytes) else "pixels"
