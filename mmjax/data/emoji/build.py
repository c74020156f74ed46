"""Makes the embedded emoji data set again: `python -m mmjax.data.emoji.build [--packages DIR] [--out DIR]`.

Same packages in, same bytes out (with the same Pillow). Without --packages the four npm packages are fetched.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from mmjax.data.emoji import concepts as emoji_concepts
from mmjax.data.emoji import images
from mmjax.data.emoji.concepts import VENDORS, Concept, Files
from mmjax.data.emoji.families import PARTS, part_of
from mmjax.data.emoji.packages import read_packages
from mmjax.data.emoji.write import Drawing, write_captions, write_dataset
from mmjax.errors import UserError

HERE = Path(__file__).parent


def build(files: Files, out: Path, report: Callable[[str], None] = print) -> None:
    """Writes out/dataset (TFDS directory) and out/captions (a JSON file per language) from the packages' files."""
    drawn = emoji_concepts.drawings(files)
    everything = emoji_concepts.load_concepts(files)
    drawings = {vendor: _flatten_all(drawn[vendor], everything) for vendor in VENDORS}
    concepts = drop_identical(everything, drawings, report)
    parts = {concept.family: part_of(concept.family) for concept in concepts}
    splits = {
        f"{vendor}_{part}": [
            Drawing(concept, vendor, images.encode(drawings[vendor][concept.hexcode]))
            for concept in concepts
            if parts[concept.family] == part
        ]
        for vendor in VENDORS
        for part in PARTS
    }
    write_dataset(out / "dataset", splits, images.IMAGE_SIZE)
    locales = emoji_concepts.locales(files)
    for locale in locales:
        write_captions(out / "captions" / f"{locale}.json", emoji_concepts.captions(files, locale), concepts)
    counts = Counter(parts[concept.family] for concept in concepts)
    report(f"{len(concepts)} concepts {dict(counts)}, {len(parts)} families, {len(locales)} languages, in {out}")


def _flatten_all(encoded: dict[str, bytes], concepts: Sequence[Concept]) -> dict:
    return {concept.hexcode: images.flatten(encoded[concept.hexcode]) for concept in concepts}


def drop_identical(concepts: Sequence[Concept], drawings: dict[str, dict], report: Callable[[str], None]) -> list:
    """Returns the concepts without those that any vendor draws exactly as another one.

    Of each group the shortest label stays (it is the most general: "family" of twelve silhouettes), for all vendors.
    """
    labels = {concept.hexcode: concept.label for concept in concepts}
    dropped: set[str] = set()
    for vendor, by_hexcode in drawings.items():
        pixels = {hexcode: image.tobytes() for hexcode, image in by_hexcode.items()}
        for group in images.identical_groups(pixels):
            kept = min(group, key=lambda hexcode: len(labels[hexcode]))
            dropped.update(hexcode for hexcode in group if hexcode != kept)
            report(f"{vendor} draws alike: {', '.join(labels[hexcode] for hexcode in group)}; kept {labels[kept]}")
    return [concept for concept in concepts if concept.hexcode not in dropped]


def main() -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, help="folder of the four .tgz files made by `npm pack`")
    parser.add_argument("--out", type=Path, default=HERE, help="where dataset/ and captions/ go (default: the package)")
    arguments = parser.parse_args()
    try:
        build(read_packages(arguments.packages), arguments.out)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
