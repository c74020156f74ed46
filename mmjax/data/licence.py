"""The licence of a data set, as far as the data says it."""

import json
from collections.abc import Sequence
from pathlib import Path

from mmjax.data.sources.tfds_folder import dataset_folder, folder_of
from mmjax.errors import UserError

EMOJI = (
    "Images: Noto Emoji (Google LLC, Apache-2.0), Twemoji (Twitter, Inc and other contributors, CC-BY 4.0), Fluent "
    "Emoji (Microsoft Corporation, MIT). Labels and tags: Emojibase (Miles Johnson, MIT)."
)
UNKNOWN = "Not stated by the data. Whoever passes this model on should find out."
NAMES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt", "LICENCE.md")


def licences_of(sources: Sequence[str]) -> str:
    """What all of these data sources say of their licences."""
    said = {source: licence_of(source) for source in sources}
    return said[sources[0]] if len(said) == 1 else "\n\n".join(f"{source}: {found}" for source, found in said.items())


def licence_of(source: str) -> str:
    """What a data source (see `DataConfig.source`) says of its licence: its own statement, or that it says nothing.

    That is the licence field of `dataset_info.json` of a TFDS directory, or the text of a file called LICENSE.
    """
    kind, _, place = source.partition(":")
    if kind == "emoji":
        return EMOJI
    try:
        folder = dataset_folder(folder_of(place)) if kind == "tfds" else Path(place).expanduser()
    except UserError:
        return UNKNOWN  # A model may be exported where its data is not.
    info = folder / "dataset_info.json"
    if info.exists():
        stated = json.loads(info.read_text(encoding="utf-8")).get("redistributionInfo", {}).get("license")
        if stated:
            return str(stated)
    found = next((folder / name for name in NAMES if (folder / name).exists()), None)
    return UNKNOWN if found is None else found.read_text(encoding="utf-8").strip()
