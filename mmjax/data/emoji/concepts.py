"""Emoji concepts: which exist in all packages, how each is named in every language, and where each vendor draws it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from mmjax.data.emoji import packages
from mmjax.data.emoji.families import family_of

Files = Mapping[str, Mapping[str, bytes]]
VARIATION_SELECTOR = "FE0F"
VENDORS = ("noto", "twemoji", "fluent")


@dataclass(frozen=True)
class Concept:
    """One emoji: `hexcode` is its code points in upper case without variation selectors, joined by "-"."""

    concept_id: int
    hexcode: str
    label: str
    tags: tuple[str, ...]
    group: str
    subgroup: str
    family: str


def plain_hexcode(hexcode: str) -> str:
    """Returns the one spelling of a hexcode that the packages' differing ones agree on ("00a9-fe0f" -> "A9")."""
    points = (point for point in hexcode.upper().split("-") if point != VARIATION_SELECTOR)
    return "-".join(f"{int(point, 16):X}" for point in points)


def drawings(files: Files) -> dict[str, dict[str, bytes]]:
    """Returns {vendor: {hexcode: encoded image}} of every drawing in the packages."""
    folders = {"noto": "img/google/64/", "twemoji": "img/twitter/64/", "fluent": "assets/"}
    sources = {"noto": packages.NOTO, "twemoji": packages.TWEMOJI, "fluent": packages.FLUENT}
    return {vendor: _by_hexcode(files[sources[vendor].name], folders[vendor]) for vendor in VENDORS}


def _by_hexcode(package: Mapping[str, bytes], folder: str) -> dict[str, bytes]:
    paths = (path for path in package if path.startswith(folder))
    return {plain_hexcode(path.removeprefix(folder).rsplit(".", 1)[0]): package[path] for path in paths}


def captions(files: Files, locale: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Returns {hexcode: (label, tags)} in one language."""
    entries = json.loads(files[packages.CAPTIONS.name][f"{locale}/data.json"])
    return {plain_hexcode(entry["hexcode"]): (entry["label"], tuple(entry.get("tags", ()))) for entry in entries}


def locales(files: Files) -> list[str]:
    """Returns the languages that the caption package has, sorted, as it spells them ("en", "zh-hant")."""
    return sorted(
        path.split("/")[0]
        for path in files[packages.CAPTIONS.name]
        if path.count("/") == 1 and path.endswith("/data.json")
    )


def load_concepts(files: Files) -> list[Concept]:
    """Returns the base concepts (no skin tones) that all three vendors draw, in Unicode's order."""
    drawn = set.intersection(*(set(images) for images in drawings(files).values()))
    based = {plain_hexcode(entry["unified"]) for entry in json.loads(files[packages.NOTO.name]["emoji.json"])}
    entries = json.loads(files[packages.CAPTIONS.name]["en/data.json"])
    ordered = sorted((entry for entry in entries if "order" in entry), key=lambda entry: entry["order"])
    kept = [entry for entry in ordered if plain_hexcode(entry["hexcode"]) in drawn & based]
    names = json.loads(files[packages.CAPTIONS.name]["meta/groups.json"])
    return [_concept(place, entry, names) for place, entry in enumerate(kept)]


def _concept(concept_id: int, entry: Mapping, names: Mapping) -> Concept:
    subgroup = names["subgroups"][str(entry["subgroup"])]
    return Concept(
        concept_id=concept_id,
        hexcode=plain_hexcode(entry["hexcode"]),
        label=entry["label"],
        tags=tuple(entry.get("tags", ())),
        group=names["groups"][str(entry["group"])],
        subgroup=subgroup,
        family=family_of(entry["label"], subgroup),
    )
