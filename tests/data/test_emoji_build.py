"""The builder on four tiny made-up packages: the same bytes twice, duplicates dropped, families kept together."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from mmjax.data.emoji import packages
from mmjax.data.emoji.build import build
from mmjax.data.emoji.concepts import plain_hexcode
from mmjax.data.emoji.families import HELDOUT_SHARE, PARTS, VALIDATION_SHARE, family_of, part_of
from mmjax.data.sources.specs import open_source
from mmjax.errors import UserError
from tests.data.tiny_sources import png

LABELS = ("red heart", "blue heart", "rose", "man cook", "woman cook", "twin rose")
NAMES = [f"{0x1F600 + number:x}-fe0f" for number in range(len(LABELS))]


def _emojibase(translate: str) -> bytes:
    entries = [
        {
            "hexcode": name.upper(),
            "label": translate + label,
            "tags": [label.split()[-1]],
            "order": n,
            "group": 0,
            "subgroup": 0,
        }
        for n, (name, label) in enumerate(zip(NAMES, LABELS, strict=True))
    ]
    return json.dumps(entries).encode()


def _package_files() -> dict[packages.PackageSpec, dict[str, bytes]]:
    # The twin is drawn as the rose by Twemoji, and only by it.
    drawn = {vendor: {name: png(seed + 10 * n) for n, name in enumerate(NAMES)} for seed, vendor in enumerate("ntf")}
    drawn["t"][NAMES[5]] = drawn["t"][NAMES[2]]
    listing = json.dumps([{"unified": name.upper()} for name in NAMES]).encode()
    groups = json.dumps({"groups": {"0": "things"}, "subgroups": {"0": "thing"}}).encode()
    return {
        packages.NOTO: {"emoji.json": listing} | {f"img/google/64/{name}.png": drawn["n"][name] for name in NAMES},
        packages.TWEMOJI: {f"img/twitter/64/{name}.png": drawn["t"][name] for name in NAMES},
        packages.FLUENT: {f"assets/{name[:5]}.webp": drawn["f"][name] for name in NAMES},
        packages.CAPTIONS: {
            "en/data.json": _emojibase(""),
            "xx/data.json": _emojibase("x "),
            "meta/groups.json": groups,
        },
    }


@pytest.fixture
def package_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "packages"
    folder.mkdir()
    for spec, files in _package_files().items():
        with tarfile.open(folder / spec.file_name, "w:gz") as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(f"package/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return folder


def test_same_packages_same_bytes(package_folder: Path, tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        build(packages.read_packages(package_folder), tmp_path / name, report=lambda line: None)
        paths = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        written.append({path.relative_to(tmp_path / name): path.read_bytes() for path in paths})
    assert written[0] == written[1]
    assert len(written[0]) == 9 + 2 + 2


def test_duplicates_are_dropped_for_all_vendors(package_folder: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    build(packages.read_packages(package_folder), tmp_path / "out", report=lines.append)
    assert "twemoji draws alike: rose, twin rose; kept rose" in lines
    spec = f"tfds:{tmp_path / 'out'}"
    for vendor in ("noto", "twemoji", "fluent"):
        split = f"{vendor}_fit+{vendor}_validation+{vendor}_heldout"
        labels = {record.captions[0] for record in open_source(spec, split, text_key="label")}
        assert labels == set(LABELS) - {"twin rose"}
    assert "x rose" in (tmp_path / "out/captions/xx.json").read_text()


def test_a_missing_package_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is missing: run `npm pack emoji-datasource-google@16.0.0`"):
        packages.read_packages(tmp_path)


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        (("man cook", "person-role"), ("woman cook", "person-role"), True),
        (("person: red hair", "person"), ("woman: red hair", "person"), True),
        (("person: red hair", "person"), ("person: bald", "person"), False),
        (("keycap: 1", "keycap"), ("keycap: #", "keycap"), False),
        (("red heart", "heart"), ("heart suit", "game"), True),
        (("red heart", "heart"), ("blue heart", "heart"), False),
        (("women with bunny ears", "person-activity"), ("people with bunny ears", "person-activity"), True),
        (("thumbs up", "hand-fingers-closed"), ("thumbs down", "hand-fingers-closed"), True),
        (("globe showing Americas", "place-map"), ("globe with meridians", "place-map"), False),
        (("rose", "plant-flower"), ("tulip", "plant-flower"), False),
        (("cat face", "animal-mammal"), ("dog face", "animal-mammal"), False),
    ],
)
def test_near_duplicates_are_one_family(first: tuple, second: tuple, together: bool) -> None:
    assert (family_of(*first) == family_of(*second)) == together


def test_parts_have_their_shares_and_are_stable() -> None:
    names = [f"family {number}" for number in range(2000)]
    parts = [part_of(name) for name in names]
    assert set(parts) == set(PARTS)
    assert parts.count("heldout") / 2000 == pytest.approx(HELDOUT_SHARE, abs=0.02)
    assert parts.count("validation") / 2000 == pytest.approx(VALIDATION_SHARE, abs=0.02)
    # The name alone decides, in any version of Python.
    assert (part_of("plant-flower/rose"), part_of("animal-bird/penguin")) == ("fit", "heldout")


def test_hexcodes_have_one_spelling() -> None:
    assert plain_hexcode("00a9-fe0f") == plain_hexcode("A9") == "A9"
