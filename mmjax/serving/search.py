"""An index on disk: FAISS files, captions as JSON lines, thumbnails in one file. No pickles, no paths.

index.json       facts: format, kind, model (name, fingerprint), data, numbers
images.faiss     embeddings of the images, row by row
texts.faiss      embeddings of the different captions, row by row
images.jsonl     {"captions": [...], "thumbnail": [offset, length]}, row by row
texts.jsonl      {"text": ..., "image": first image row that has it}
thumbnails.bin   WebP images, one after the other
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from mmjax.errors import UserError

FORMAT = 1
FACTS, IMAGES, TEXTS = "index.json", "images.faiss", "texts.faiss"
IMAGE_LINES, TEXT_LINES, THUMBNAILS = "images.jsonl", "texts.jsonl", "thumbnails.bin"
REBUILD = "build it again with python -m mmjax.serving.index"


@dataclass(frozen=True)
class Hit:
    """Row of the index and cosine similarity to the query."""

    row: int
    score: float


class SearchIndex:
    """An index that is open: `images` and `texts` are found by their embeddings, thumbnails read by row.

    Raises:
        UserError: a file is missing, damaged or a link, or another model made the index.
    """

    def __init__(self, folder: Path, model_fingerprint: str):
        self.facts = _read_facts(folder, model_fingerprint)
        self._faiss = {"images": _read_faiss(folder / IMAGES), "texts": _read_faiss(folder / TEXTS)}
        self.images = _read_lines(folder / IMAGE_LINES)
        self.texts = _read_lines(folder / TEXT_LINES)
        self._thumbnails = os.open(_checked(folder / THUMBNAILS), os.O_RDONLY)
        self._check(folder)

    def find(self, target: str, queries: np.ndarray, count: int) -> list[list[Hit]]:
        """The `count` nearest rows of `target` ("images" or "texts") for each query (n, e), best first.

        Fewer where there are no more, or where an approximate index finds no more.
        """
        index = self._faiss[target]
        scores, rows = index.search(np.ascontiguousarray(queries, np.float32), min(count, index.ntotal))
        return [
            [Hit(int(row), float(score)) for row, score in zip(*found, strict=True) if row >= 0]
            for found in zip(rows, scores, strict=True)
        ]

    def thumbnail(self, row: int) -> bytes | None:
        """The WebP file of an image; None where there is no such row."""
        if not 0 <= row < len(self.images):
            return None
        offset, length = self.images[row]["thumbnail"]
        return os.pread(self._thumbnails, length, offset)

    def close(self) -> None:
        os.close(self._thumbnails)

    def _check(self, folder: Path) -> None:
        """That the parts belong together, so that no row leads nowhere."""
        for name, lines in (("images", self.images), ("texts", self.texts)):
            index = self._faiss[name]
            if not len(lines) == index.ntotal == self.facts[f"num_{name}"] or index.d != self.facts["embed_dim"]:
                raise UserError(f"{folder}: the files of {name} do not belong together: {REBUILD}")
        end = max((sum(line["thumbnail"]) for line in self.images), default=0)
        if os.fstat(self._thumbnails).st_size < end:
            raise UserError(f"{folder / THUMBNAILS} is cut off: {REBUILD}")


def _read_facts(folder: Path, model_fingerprint: str) -> dict[str, Any]:
    path = _checked(folder / FACTS)
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version, made_by = facts["format"], facts["model"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: {REBUILD}") from error
    if version != FORMAT:
        raise UserError(f"{path} has format {version!r}, this program reads {FORMAT}: {REBUILD}")
    if made_by["fingerprint"] != model_fingerprint:
        raise UserError(
            f"index {folder} was made by another model ({made_by['name']}, {made_by['fingerprint'][:12]}; --model is "
            f"{model_fingerprint[:12]}): {REBUILD}, or give the --model that made it"
        )
    return facts


def _read_faiss(path: Path) -> Any:
    try:
        return faiss.read_index(str(_checked(path)))
    except RuntimeError as error:
        raise UserError(f"{path} is damaged: {REBUILD}") from error


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in _checked(path).read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise UserError(f"{path} is damaged: {REBUILD}") from error


def _checked(path: Path) -> Path:
    """The path of a plain file; a link could lead out of the folder."""
    if path.is_symlink():
        raise UserError(f"{path} is a link: an index holds plain files; {REBUILD}")
    if not path.is_file():
        raise UserError(f"{path} is missing: {REBUILD}")
    return path
