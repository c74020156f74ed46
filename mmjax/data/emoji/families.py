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
# The same for labels that gender or direction words alone do not bring together, and for near duplicates under
# unrelated labels (found by comparing the drawings pixel by pixel).
ALIKE = {
    "family": "family",
    "prince": "royalty",
    "princess": "royalty",
    "person with crown": "royalty",
    "mermaid": "merperson",
    "merman": "merperson",
    "merperson": "merperson",
    "Santa Claus": "claus",
    "Mrs. Claus": "claus",
    "Mx Claus": "claus",
    "breast-feeding": "person-role/feeding baby",
    "person pouting": "person-gesture/frowning",
    "man pouting": "person-gesture/frowning",
    "woman pouting": "person-gesture/frowning",
    "smiling face with horns": "face with horns",
    "angry face with horns": "face with horns",
    "men’s room": "restroom",
    "women’s room": "restroom",
    "restroom": "restroom",
    "red heart": "heart",
    "heart suit": "heart",
    "mobile phone": "mobile phone",
    "mobile phone with arrow": "mobile phone",
    "mobile phone off": "mobile phone",
    "vibration mode": "mobile phone",
    "locked": "lock",
    "unlocked": "lock",
    "locked with key": "lock",
    "locked with pen": "lock",
    "muted speaker": "speaker",
    "speaker low volume": "speaker",
    "speaker medium volume": "speaker",
    "speaker high volume": "speaker",
    "speech balloon": "speech bubble",
    "left speech bubble": "speech bubble",
    "right anger bubble": "speech bubble",
    "snowman": "snowman",
    "snowman without snow": "snowman",
    "star of David": "six-pointed star",
    "dotted six-pointed star": "six-pointed star",
    "new moon": "black disc",
    "black circle": "black disc",
}
PEOPLE_WORDS = {"man", "woman", "men", "women", "person", "people", "boy", "girl"}
DIRECTION_WORDS = {"up", "down", "left", "right", "leftwards", "rightwards", "upwards", "downwards"}

# Shares of the concepts, by hash. A family larger than the cap would be over a twentieth of the held-out concepts and
# skew their score towards one kind of drawing, so it is always trained on.
HELDOUT_SHARE = 0.14
VALIDATION_SHARE = 0.13
MAX_HELDOUT_FAMILY = 10
PARTS = ("fit", "validation", "heldout")


def family_of(label: str, subgroup: str) -> str:
    """Returns the family of a concept from its English label and its Unicode subgroup.

    Rule: subgroups that vary one drawing are one family; else the subgroup and the label without its words for gender
    and direction ("woman mountain biking" -> "person-sport/mountain biking").
    """
    if label in ALIKE:
        return ALIKE[label]
    if re.search("o’clock|-thirty", label):
        return "clock face"
    return WHOLE_SUBGROUPS.get(subgroup) or f"{subgroup}/{_without_variant_words(label)}"


def _without_variant_words(label: str) -> str:
    words = [word for word in re.split(r"[\s:,]+", label.lower()) if word]
    return " ".join([word for word in words if word not in PEOPLE_WORDS | DIRECTION_WORDS] or words)


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
