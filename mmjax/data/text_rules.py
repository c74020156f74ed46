"""What texts are put in order by before a tokenizer sees them, as part of the tokenizer itself.

The rules stand before the tokenizer's own, in what `tokenizers` serialises: so its fingerprint has them, and a
tokenizer that is saved or exported brings them along.
"""

import re
import string

import tokenizers
from tokenizers import normalizers

from mmjax.data.nearest import unknown_name

NONE = "none"
WHITESPACE = r"\s+"
PUNCTUATION = f"[{re.escape(string.punctuation)}]"


def _spaced() -> list[normalizers.Normalizer]:
    return [normalizers.Replace(tokenizers.Regex(WHITESPACE), " "), normalizers.Strip()]


def rules(name: str) -> list[normalizers.Normalizer]:
    """The rules of a name, in their order.

    none: the text as it is.
    plain: composed letters (NFC), and single spaces.
    clip: the same in lower case, as `CLIPTokenizer` of `transformers`; OpenAI's code also repairs mojibake and entities
        of HTML, which belongs into the preparation of the data.
    siglip: lower case without ASCII punctuation, of which "_" is a space, and single spaces, as `canonicalize_text` of
        big_vision.

    Raises:
        UserError: there is no such name.
    """
    known = {
        NONE: [],
        "plain": [normalizers.NFC(), *_spaced()],
        "clip": [normalizers.NFC(), *_spaced(), normalizers.Lowercase()],
        "siglip": [
            normalizers.Replace("_", " "),
            normalizers.Lowercase(),
            normalizers.Replace(tokenizers.Regex(PUNCTUATION), ""),
            *_spaced(),
        ],
    }
    if name not in known:
        raise unknown_name("data.text_rules", name, known)
    return known[name]


def add_rules(backend: tokenizers.Tokenizer, name: str) -> None:
    """Puts the rules before those of the tokenizer."""
    found = rules(name)
    if found:
        own = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([*found, *own])
