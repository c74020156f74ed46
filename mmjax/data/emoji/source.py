"""The embedded emoji as a source of records, in any of its languages."""

import json
from pathlib import Path

from mmjax.data.emoji.splits import NAMED_SPLITS
from mmjax.data.nearest import unknown_name
from mmjax.data.records import Record, check_index
from mmjax.data.sources.tfds_folder import open_builder, open_split

HERE = Path(__file__).parent


class EmojiSource:
    """Records of a named split (see `splits.py`) or of any TFDS expression over the vendor x part splits.

    Captions are the concept's label, then its tags, in `locale` ("en", "zh", ...); the class name is Unicode's subgroup
    in English ("animal mammal").
    """

    def __init__(self, split: str, locale: str = "en"):
        builder = open_builder(HERE / "dataset")
        known_splits = [*NAMED_SPLITS, *builder.info.splits]
        self._examples = open_split(builder, NAMED_SPLITS.get(split, split), "emoji", "image", known_splits)
        self._captions = None if locale == "en" else _read_captions(locale)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Record:
        check_index(index, self)
        example = self._examples[index]
        hexcode, vendor = example["hexcode"].decode(), example["vendor"].decode()
        if self._captions is None:
            label, tags = example["label"].decode(), [tag.decode() for tag in example["tags"]]
        else:
            label, tags = self._captions[hexcode]
        class_name = example["subgroup"].decode().replace("-", " ")
        return Record(example["image"], (label, *tags), class_name, f"emoji {vendor} {hexcode}")


def _read_captions(locale: str) -> dict[str, tuple[str, list[str]]]:
    path = HERE / "captions" / f"{locale}.json"
    if not path.is_file():
        raise unknown_name("data.locale", locale, (known.stem for known in path.parent.glob("*.json")))
    return json.loads(path.read_text(encoding="utf-8"))
