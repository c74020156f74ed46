"""Families of near-duplicate concepts, and the part of the data set that each family goes to.

A man, a woman and a person who cook are three concepts but nearly one drawing and one caption: were one of them
trained on and another held out, the score would measure memory. So whole families go to one part, and the part is a
function of the family's name alone: adding or dropping a concept never moves another one.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable

# Subgroups of Unicode's emoji list that are one drawing with another glyph, colour, hair or member in it.
WHOLE_SUBGROUPS = {
    "keycap": "keycap",
    "alphanum": "letter button",
    "arrow": "arrow button",
    "av-symbol": "player button",
    "zodiac": "zodiac button",
    "country-flag": "flag",
    "subdivision-flag": "flag",
    "person": "person",
    "family": "family",
}
# Near duplicates across subgroups, or under unrelated labels (found by comparing the drawings pixel by pixel).
ALIKE = {
    "family": "family",
    "prince": "royalty",
    "princess": "royalty",
    "person with crown": "royalty",
    "mermaid": "merperson",
    "merman": "merperson",
    "merperson": "merperson",
    "breast-feeding": "person-role/baby",
    "cat face": "cat-face/cat",
    "heart suit": "heart/heart",
    "heart decoration": "heart/heart",
    "mobile phone": "mobile phone",
    "mobile phone with arrow": "mobile phone",
    "mobile phone off": "mobile phone",
    "vibration mode": "mobile phone",
    "locked": "lock",
    "unlocked": "lock",
    "locked with key": "lock",
    "locked with pen": "lock",
    "new moon": "sky-weather/moon",
    "black circle": "sky-weather/moon",
    "red square": "geometric/square",
    "muted speaker": "sound/volume",
    "information": "arrow button",
}
PEOPLE_WORDS = {"man", "woman", "men", "women", "person", "people", "boy", "girl"}
DIRECTION_WORDS = {"up", "down", "left", "right", "leftwards", "rightwards", "upwards", "downwards"}
HEAD_ENDS = {"with", "without", "showing", "of", "in", "on", "behind", "facing", "pointing", "tilted", "wearing"}

# Shares of the concepts, by hash. A family larger than the cap would be over a twentieth of the held-out concepts and
# skew their score towards one kind of drawing, so it is always trained on.
HELDOUT_SHARE = 0.14
VALIDATION_SHARE = 0.13
MAX_HELDOUT_FAMILY = 10
PARTS = ("fit", "validation", "heldout")


def family_of(label: str, subgroup: str) -> str:
    """Returns the family of a concept from its English label and its Unicode subgroup.

    Rule: subgroups that vary one drawing are one family; else the subgroup and the label's head noun, after words for
    gender and direction are dropped ("woman mountain biking" -> "person-sport/biking").
    """
    if label in ALIKE:
        return ALIKE[label]
    if re.search("o’clock|-thirty", label):
        return "clock face"
    return WHOLE_SUBGROUPS.get(subgroup) or f"{subgroup}/{_head_noun(label)}"


def _head_noun(label: str) -> str:
    words = [word for word in re.split(r"[\s:,]+", label.lower()) if word]
    kept = [word for word in words if word not in PEOPLE_WORDS | DIRECTION_WORDS] or words
    ends = [place for place, word in enumerate(kept) if word in HEAD_ENDS and place > 0]
    return kept[ends[0] - 1] if ends else kept[-1]


def part_of(family: str, family_size: int) -> str:
    """Returns "heldout", "validation" or "fit" for a family of `family_size` concepts."""
    if family_size > MAX_HELDOUT_FAMILY:
        return "fit"
    place = int.from_bytes(hashlib.sha256(family.encode()).digest()[:8], "big") / 2**64
    if place < HELDOUT_SHARE:
        return "heldout"
    return "validation" if place < HELDOUT_SHARE + VALIDATION_SHARE else "fit"


def parts_of(families: Iterable[str]) -> dict[str, str]:
    """Returns {family: part} for the families of all concepts (one entry per concept, repeats count the size)."""
    return {family: part_of(family, size) for family, size in Counter(families).items()}
