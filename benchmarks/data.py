"""Times the input pipeline beside webdataset with torch, tf.data, and libjpeg-turbo alone, on the same photos.

    python benchmarks/data.py [--rivals PYTHON] [--num-photos 2000 --secs 6 --repeats 5 --folder DIR] [--json FILE]

Photos of 500 x 375 pixels are generated, with the spectrum of natural ones and JPEG's quality 90 (about 98 kB each),
and written as tars of 250, as img2dataset writes them, and as TFRecords. Every side cuts 224 x 224 at random (area 8 to
100%, ratio 3/4 to 4/3), tokenizes ten words with the shipped tokenizer, and gives batches of 256, in two threads or
processes:

- mmjax: `train_batches` on the tars, with each decoder;
- webdataset: `WebDataset` and a torch `DataLoader` of two workers, Pillow, RandomResizedCrop and ToTensor;
- tf.data: a TFRecordDataset, `decode_and_crop_jpeg` and `resize`, and the same with `decode_jpeg` and a slice;
- libjpeg-turbo: simplejpeg decodes photos in memory to the scale that mmjax would, in two threads, and nothing else.

Sides take turns as processes of their own, each timed from its second batch on, so that what else the machine does hits
all; quoted are medians, and the ratio in each turn. `--rivals` is a Python with torch, torchvision, webdataset,
tensorflow-cpu and tokenizers; without it their rows are left out.
"""

import argparse
import io
import itertools
import json
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

SIZE, QUALITY = (500, 375), 90
SIDE, BATCH, TEXT_LEN, NUM_THREADS = 224, 256, 16, 2
AREA = (0.08, 1.0)
SHARD = 250
VOCABULARY = (
    "a the red blue old small dog cat house tree man woman road on in with near behind running sitting standing "
    "water grass sky table street green white black two three"
)
SIDES = ("mmjax, turbo", "mmjax, pillow", "libjpeg-turbo", "webdataset", "tf.data, crop", "tf.data, slice")
RIVALS = SIDES[3:]
RIVAL_PROGRAM = Path(__file__).with_name("data_rivals.py")


def photo(seed: int) -> bytes:
    """A JPEG whose luminance and colours have amplitudes of about 1/f (Field 1987), as natural images have."""
    rng, (width, height) = np.random.default_rng(seed), SIZE
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    fields = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(3, height, width))) / frequency**1.15, s=(height, width))
    luma, warm, green = (field / field.std() for field in fields - fields.mean((1, 2), keepdims=True))
    pixels = 128 + 50 * np.stack([luma + warm / 4, luma + green / 10, luma - warm / 4], -1)
    encoded = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(encoded, "jpeg", quality=QUALITY)
    return encoded.getvalue()


def write_tar(folder: Path, number: int) -> None:
    """One shard of photos and captions."""
    rng = np.random.default_rng(number)
    with tarfile.open(folder / f"{number:05d}.tar", "w") as tar:
        for place in range(SHARD):
            text = " ".join(rng.choice(VOCABULARY.split(), 10)).encode()
            for kind, content in (("jpg", photo(number * SHARD + place)), ("txt", text)):
                member = tarfile.TarInfo(f"{number:05d}{place:04d}.{kind}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def write_photos(folder: Path, num_photos: int) -> str:
    """The pattern of tars with so many photos, which are written where they are not there."""
    last = num_photos // SHARD - 1
    if not (folder / f"{last:05d}.tar").exists():
        folder.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor() as processes:
            list(processes.map(write_tar, itertools.repeat(folder), range(last + 1)))
    return f"{folder}/{{00000..{last:05d}}}.tar"


def rate(batches: Iterator[int], secs: float) -> float:
    """Examples a second of batches that say how many they have, from the second one on."""
    next(batches)
    start, count = time.perf_counter(), 0
    for size in batches:
        count += size
        if time.perf_counter() - start > secs:
            break
    return count / (time.perf_counter() - start)


def mmjax_batches(pattern: str, decoder: str) -> Iterator[int]:
    from mmjax.data.bench import DEFAULT
    from mmjax.data.loader import train_batches
    from mmjax.data.opened import open_training
    from mmjax.data.tokenizer import Tokenizer

    augment = replace(DEFAULT.augment, crop_area=AREA, decoder=decoder)
    config = replace(DEFAULT, source=f"wds:{pattern}", augment=augment, text_len=TEXT_LEN, num_threads=NUM_THREADS)
    data = open_training(config)
    tokenizer = Tokenizer.load("emoji")
    for batch in train_batches(config, data.records, tokenizer, seed=0, start_step=0, num_steps=10**6):
        yield len(batch["ids"])


def decoded_batches(pattern: str) -> Iterator[int]:
    import simplejpeg

    from mmjax.data import augment, photos
    from mmjax.data.augment import AugmentConfig
    from mmjax.data.sources.specs import open_source

    source, config = open_source(f"wds:{pattern}", "train"), AugmentConfig(crop_area=AREA)
    images = [source[index].image for index in range(len(source))]
    boxes = [augment._random_box(*SIZE, config, np.random.default_rng(index)) for index in range(len(images))]
    factors = [photos._factor(box, SIDE, SIDE) for box in boxes]

    def decode(task: range) -> int:
        for index in task:
            least = [-(-side // factors[index % len(images)]) for side in SIZE]
            simplejpeg.decode_jpeg(images[index % len(images)], min_width=least[0], min_height=least[1])
        return len(task)

    with ThreadPoolExecutor(NUM_THREADS) as threads:
        for start in itertools.count(0, BATCH):
            yield sum(threads.map(decode, [range(start + part, start + part + 64) for part in range(0, BATCH, 64)]))


def batches_of(side: str, pattern: str) -> Iterator[int]:
    if side.startswith("mmjax"):
        return mmjax_batches(pattern, side.split(", ")[1])
    return decoded_batches(pattern)


def measured(python: str, side: str, pattern: str, secs: float) -> float:
    """Examples a second of one side, in a process of its own."""
    program = RIVAL_PROGRAM if side in RIVALS else __file__
    command = [python, str(program), "--side", side, "--pattern", pattern, "--secs", str(secs)]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"{side}: {ended.stderr[-2000:]}")
    return float(ended.stdout.split()[-1])


def show(rates: dict[str, list[float]]) -> None:
    table = Table("side", "examples/s", "mmjax, turbo over it", "of each turn")
    ours = next(iter(rates.values()))
    for side, found in rates.items():
        ratios = [mine / other for mine, other in zip(ours, found, strict=True)]
        turns = " ".join(f"{ratio:.2f}" for ratio in ratios)
        table.add_row(side, f"{statistics.median(found):,.0f}", f"{statistics.median(ratios):.2f}", turns)
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rivals", help="a Python that has the libraries to compare with")
    parser.add_argument("--num-photos", type=int, default=2000)
    parser.add_argument("--secs", type=float, default=6.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "mmjax-benchmark-photos")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--pattern", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(rate(batches_of(options.side, options.pattern), options.secs))
        return
    pattern = write_photos(options.folder, options.num_photos)
    sides = [side for side in options.sides if options.rivals or side not in RIVALS]
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(options.repeats):
        for side in sides:
            python = options.rivals if side in RIVALS else sys.executable
            rates[side].append(measured(python, side, pattern, options.secs))
    show(rates)
    if options.json:
        options.json.write_text(json.dumps(rates, indent=2) + "\n")


if __name__ == "__main__":
    main()
