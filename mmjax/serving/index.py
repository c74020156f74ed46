"""Embeds a data set and builds a FAISS index of it:

python -m mmjax.serving.index --model DIR --data SPEC --out DIR [--split NAME] [--kind flat|ivf|hnsw].
"""

import argparse
import io
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from PIL import Image

from mmjax import ending
from mmjax.data.records import BadRecord, Record
from mmjax.errors import UserError
from mmjax.serving import search
from mmjax.serving.datasets import open_records
from mmjax.serving.fusion_model import FusionModel
from mmjax.serving.images import open_image
from mmjax.serving.limits import Limits, Refused
from mmjax.serving.loading import load_embedder
from mmjax.serving.model import DTYPES, Embedder, ModelConfig

KINDS = ("flat", "ivf", "hnsw")
THUMBNAIL_SIDE = 192
THUMBNAIL_QUALITY = 90
POINTS_A_CELL = 39
"""Fewer training points for each cell of an inverted file, and FAISS warns of bad centroids."""
PROBED = 8
"""One cell in so many is searched, and at least 4."""
HNSW_LINKS, HNSW_BUILD, HNSW_SEARCH = 32, 200, 128
"""M, efConstruction and efSearch in Malkov and Yashunin, arXiv:1603.09320."""
SHOWN_BAD = 5


def main(arguments: Sequence[str]) -> None:
    options = parsed(arguments)
    if options.out.exists():
        raise UserError(f"--out {options.out} exists: remove it, or choose another folder")
    records = open_records(options.data, options.split, options.image_key, options.text_key)
    embedder = load_embedder(ModelConfig(options.model, options.device, options.dtype))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.out.parent, prefix=".index-") as draft:
        folder = Path(draft) / "index"
        folder.mkdir()
        facts = build(embedder, records, folder, options.kind, options.batch)
        about = {"data": data_name(options.data), "split": options.split, **facts}
        (folder / search.FACTS).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        folder.rename(options.out)  # Whole or not at all.
    print(f"{options.out}: {facts['num_images']} images, {facts['num_texts']} texts, {facts['kind']}")


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m mmjax.serving.index", description="Builds an index to search.")
    parser.add_argument("--model", type=Path, required=True, help="exported folder (Hugging Face layout)")
    parser.add_argument("--data", required=True, help="a data.source of training, such as imagefolder:DIR")
    parser.add_argument("--split", help="split of the data; by default train, or the only one")
    parser.add_argument("--image-key", default="image", help="feature, member or column of the images (image)")
    parser.add_argument("--text-key", default="text", help="and that of the captions (text)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, which must not exist")
    parser.add_argument("--kind", choices=KINDS, default="flat", help="flat is exact; ivf and hnsw approximate")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="float32")
    parser.add_argument("--batch", type=int, default=32, help="images or texts embedded at once")
    return parser.parse_args(arguments)


def data_name(spec: str) -> str:
    """The specification without the folders above its last one: the index may travel."""
    kind, colon, folder = spec.partition(":")
    return f"{kind}{colon}{Path(folder).name}"


@dataclass
class Contents:
    """What has been embedded: lines of the two JSON files, and the embeddings of their rows."""

    images: list[dict[str, Any]] = field(default_factory=list)
    image_parts: list[np.ndarray] = field(default_factory=list)
    text_rows: dict[str, int] = field(default_factory=dict)
    num_bad: int = 0

    def add_captions(self, captions: Sequence[str], row: int) -> None:
        for caption in captions:
            self.text_rows.setdefault(caption, row)


def build(embedder: Embedder | FusionModel, records: Any, folder: Path, kind: str, batch: int) -> dict[str, Any]:
    """Writes the files of the index and returns its facts.

    Raises:
        UserError: no record could be used.
    """
    contents = Contents()
    with (folder / search.THUMBNAILS).open("wb") as thumbnails:
        for group in batches(good_records(records, contents), batch):
            embed_images(embedder, group, contents, thumbnails)
            print(f"\r{len(contents.images)} of {len(records)} images", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    if not contents.images:
        raise UserError("none of the records could be used: see the lines above")
    texts = list(contents.text_rows)
    text_embeds = [embedder.encode_texts(embedder.prepare_texts(group)) for group in batches(iter(texts), batch)]
    write_faiss(folder / search.IMAGES, np.concatenate(contents.image_parts), kind)
    write_faiss(folder / search.TEXTS, np.concatenate(text_embeds), kind)
    write_lines(folder / search.IMAGE_LINES, contents.images)
    write_lines(folder / search.TEXT_LINES, [{"text": x, "image": row} for x, row in contents.text_rows.items()])
    return facts_of(embedder, contents, kind)


def facts_of(embedder: Embedder | FusionModel, contents: Contents, kind: str) -> dict[str, Any]:
    return {
        "format": search.FORMAT,
        "kind": kind,
        "embed_dim": embedder.embed_dim,
        "num_images": len(contents.images),
        "num_texts": len(contents.text_rows),
        "num_skipped": contents.num_bad,
        "model": {
            "name": embedder.config.folder.resolve().name,
            "fingerprint": embedder.fingerprint,
            "dtype": embedder.config.dtype,
        },
    }


def good_records(records: Any, contents: Contents) -> Iterator[tuple[Record, Image.Image]]:
    """Records with their images; bad ones are counted, and the first of them named."""
    for index in range(len(records)):
        try:
            record = records[index]
            yield record, picture(record)
        except (BadRecord, Refused) as error:
            contents.num_bad += 1
            if contents.num_bad <= SHOWN_BAD:
                print(f"\rskipped record {index}: {error}", file=sys.stderr)


def picture(record: Record) -> Image.Image:
    if record.image is None:
        raise BadRecord("it has no image")
    return Image.fromarray(record.image) if isinstance(record.image, np.ndarray) else open_image(record.image, Limits())


def batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    group = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def embed_images(
    embedder: Embedder | FusionModel, group: Sequence[tuple[Record, Image.Image]], contents: Contents, out: Any
) -> None:
    pixels = [embedder.prepare_image(image)["pixel_values"] for _, image in group]
    contents.image_parts.append(embedder.encode_images({"pixel_values": torch.cat(pixels)}))
    for record, image in group:
        offset, data = out.tell(), thumbnail(image)
        out.write(data)
        contents.add_captions(record.captions, len(contents.images))
        contents.images.append({"captions": list(record.captions), "thumbnail": [offset, len(data)]})


def thumbnail(image: Image.Image) -> bytes:
    """A small WebP of it, without the metadata of the original."""
    small = image.convert("RGBA" if image.has_transparency_data else "RGB")
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    file = io.BytesIO()
    small.save(file, "WEBP", quality=THUMBNAIL_QUALITY)
    return file.getvalue()


def write_faiss(path: Path, embeds: np.ndarray, kind: str) -> None:
    faiss.write_index(make_faiss(embeds, kind), str(path))


def make_faiss(embeds: np.ndarray, kind: str) -> Any:
    """An index of the rows (n, e) by inner product, which is the cosine for normalised rows.

    flat: exact. ivf: about 4 sqrt(n) cells, as FAISS advises, of which an eighth is searched. hnsw: a graph.
    """
    num_rows, embed_dim = embeds.shape
    if kind == "hnsw":
        index: Any = faiss.IndexHNSWFlat(embed_dim, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = HNSW_BUILD, HNSW_SEARCH
    elif kind == "ivf":
        cells = max(1, min(int(4 * math.sqrt(num_rows)), num_rows // POINTS_A_CELL))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(embed_dim), embed_dim, cells, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = min(cells, max(4, cells // PROBED))
        index.train(embeds)
    else:
        index = faiss.IndexFlatIP(embed_dim)
    index.add(embeds)
    return index


def write_lines(path: Path, values: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(ending.status(main, sys.argv[1:]))
