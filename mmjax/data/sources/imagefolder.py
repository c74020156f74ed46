"""Records of a folder in the Hugging Face ImageFolder convention: images, and a metadata file that captions them."""

from dataclasses import replace
from pathlib import Path

from mmjax.data.nearest import unknown_name
from mmjax.data.sources.fields import Keys
from mmjax.data.sources.tables import TableSource
from mmjax.data.storage import File
from mmjax.errors import UserError

METADATA_NAMES = ("metadata.jsonl", "metadata.csv")
FILE_KEY = "file_name"
FLAT_SPLIT = "train"


def image_folder(folder: Path, split: str, keys: Keys | None = None) -> TableSource:
    """A source over `folder/SPLIT/metadata.jsonl`, or `folder/metadata.jsonl`, which is the split "train".

    Each line has `file_name`, relative to the metadata file, and what `keys` names beside the image: "text", a caption
    or a list of them. `metadata.csv` with those columns does as well.
    """
    splits = find_splits(folder)
    if split not in splits:
        raise unknown_name(f"{folder}: split", split, splits)
    metadata = splits[split].absolute()
    file = File(str(metadata), metadata.stat().st_size)
    kind = "csv" if metadata.suffix == ".csv" else "jsonl"
    return TableSource(file, kind, replace(keys or Keys(), image=FILE_KEY), "column")


def find_splits(folder: Path) -> dict[str, Path]:
    """Returns {split: its metadata file}; raises UserError when the folder has none."""
    if not folder.is_dir():
        raise UserError(f"data folder {folder} does not exist: check the path in data.source")
    splits: dict[str, Path] = {}
    for name in reversed(METADATA_NAMES):  # The first name is read where a folder has both.
        splits |= {path.parent.name: path for path in sorted(folder.glob(f"*/{name}"))}
    for path in (folder / name for name in reversed(METADATA_NAMES)):
        if path.is_file():
            splits[FLAT_SPLIT] = path
    if not splits:
        raise UserError(
            f"{folder} has no metadata.jsonl: write one line per image, "
            f'{{"{FILE_KEY}": "0001.png", "text": "a caption"}}'
        )
    return splits
