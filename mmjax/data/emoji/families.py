"""Families of near-duplicate concepts, and the part of the data set that each family goes to.

A man, a woman and a person who cook are three concepts but nearly one drawing and one caption: were one of them
trained on and another held out, the score would measure memory. So whole families go to one part, and the part is a
function of the family's name alone: adding or dropping a concept never moves another one.
"""

import hashlib
import re

# Labels that gender or direction words alone do not bring together, and near duplicates under unrelated labels (found
# by comparing the drawings pixel by pixel).
ALIKE = {
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

# Shares of the families, by hash.
HELDOUT_SHARE = 0.11
VALIDATION_SHARE = 0.11
PARTS = ("fit", "validation", "heldout")


def family_of(label: str, subgroup: str) -> str:
    """Returns the family of a concept from its English label and its Unicode subgroup.

    Rule: the subgroup and the label without its words for gender and direction ("woman mountain biking" ->
    "person-sport/mountain biking").
    """
    return ALIKE.get(label) or f"{subgroup}/{_without_variant_words(label)}"


def _without_variant_words(label: str) -> str:
    words = [word for word in re.split(r"[\s:,]+", label.lower()) if word]
    return " ".join([word for word in words if word not in PEOPLE_WORDS | DIRECTION_WORDS] or words)


def part_of(family: str) -> str:
    """Returns "heldout", "validation" or "fit"."""
    place = int.from_bytes(hashlib.sha256(family.encode()).digest()[:8], "big") / 2**64
    if place < HELDOUT_SHARE:
        return "heldout"
    return "validation" if place < HELDOUT_SHARE + VALIDATION_SHARE else "fit"
