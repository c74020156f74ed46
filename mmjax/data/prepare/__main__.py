"""Prepares data for training: `python -m mmjax.data.prepare --source SPEC --out DIR [--dedup perceptual] ...`.

Writes shards of ArrayRecord, which `--data tfds:DIR` reads, with a manifest of what was kept and why not, and a sheet
of samples. Run again after it was killed, it goes on with the parts that are not done. All cores of this machine do it,
or with --beam the machines that a runner of Apache Beam finds.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console

from mmjax import ending
from mmjax.data.cores import num_cores
from mmjax.data.prepare import manifest, runners
from mmjax.data.prepare.folder import Folder
from mmjax.data.prepare.parts import opened
from mmjax.data.prepare.pipeline import prepare
from mmjax.data.prepare.settings import DEDUPS, LANGUAGES, LICENCES, NUMBERS, RECORDS_A_PART, Settings, parse_filters
from mmjax.data.sources.specs import KINDS
from mmjax.errors import UserError


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments)
    if options.workers < 0:
        raise UserError(f"--workers={options.workers} is below 0: give 0 for one of each core, or more")
    run = runners.beam(options.beam) if options.beam else runners.processes(options.workers or num_cores())
    folder = Folder.at(options.out)
    say(Console(), folder, prepare(settings_of(options), folder, run))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m mmjax.data.prepare", description=__doc__)
    parser.add_argument("--source", required=True, help=", ".join(KINDS))
    parser.add_argument("--split", default="train")
    parser.add_argument("--image-key", default="image")
    parser.add_argument("--text-key", default="text")
    parser.add_argument("--licence-key", default="", help="what names the licence of each image (nothing does)")
    parser.add_argument("--out", required=True, help="folder to write, here or in an object store")
    names = ", ".join((*NUMBERS, LANGUAGES, LICENCES))
    parser.add_argument(
        "--filter", action="append", default=[], metavar="NAME=VALUE", help=f"one of {names}; repeatable"
    )
    parser.add_argument(
        "--dedup", choices=DEDUPS, default="none", help="keep one of images that are, or look, the same"
    )
    parser.add_argument(
        "--decontaminate", action="append", default=[], metavar="SPEC", help="evaluation to keep out; repeatable"
    )
    parser.add_argument(
        "--distance", type=int, default=4, help="bits of 64 in which images that look the same differ (4)"
    )
    parser.add_argument("--resize", type=int, default=0, help="pixels to scale a longer shorter side to; 0 leaves it")
    parser.add_argument("--quality", type=int, default=92, help="of the JPEGs that scaled images become (92)")
    parser.add_argument("--shards", type=int, default=0, help="files to write; 0 is one for each 8,192 records")
    parser.add_argument("--name", default="pairs", help="what the data set is called (pairs)")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 is one for each core")
    parser.add_argument(
        "--beam", default="", metavar="'RUNNER --OPTION=VALUE ...'", help="Apache Beam's, such as DataflowRunner"
    )
    return parser.parse_args(arguments)


def settings_of(options: argparse.Namespace) -> Settings:
    """What is asked for.

    Raises:
        UserError: it makes no sense, or there is no such data.
    """
    settings = Settings(
        options.source,
        split=options.split,
        image_key=options.image_key,
        text_key=options.text_key,
        licence_key=options.licence_key,
        filters=parse_filters(options.filter),
        dedup=options.dedup,
        decontaminate=tuple(options.decontaminate),
        distance=options.distance,
        resize=options.resize,
        quality=options.quality,
        shards=options.shards or 1,
        name=options.name,
    )
    if options.shards:
        return settings
    return replace(settings, shards=max(1, -(-len(opened(settings)) // RECORDS_A_PART)))


def say(console: Console, out: Folder, found: dict[str, Any]) -> None:
    dropped = manifest.in_words(found["dropped"])
    where = "copy it to a DIR of the machines that train, " if out.is_remote else ""
    for line in (
        f"kept {found['kept']:,} of {found['records']:,} records ({found['yield']:.1%}); dropped: {dropped}",
        f"{len(found['files'])} shards, {manifest.MANIFEST} and {manifest.SHEET} lie in {out}",
        f"next: {where}python -m mmjax.train --config FILE --data tfds:{'DIR' if where else out} --workdir DIR",
    ):
        console.print(line, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(ending.status(main, sys.argv[1:]))
