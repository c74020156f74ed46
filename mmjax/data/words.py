"""The words of captions: which are rare in a source, and their hashes for a batch."""

import string
import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from mmjax.data.records import BadRecord, Source, Unreachable
from mmjax.errors import UserError


def plain(word: str) -> str:
    """Returns the word as it is counted: "Flag:" and "flag" are one."""
    return word.strip(string.punctuation).casefold()


def distinct_words(captions: Sequence[str]) -> list[str]:
    """Returns the plain words of all captions, each once, in order; a text without blanks is one word."""
    words = (plain(word) for caption in captions for word in caption.split())
    return list(dict.fromkeys(word for word in words if word))


def hashes(captions: Sequence[str], num_words: int) -> np.ndarray:
    """Returns int32 (num_words,): a positive hash of each distinct word, the same in every process, then zeros."""
    row = np.zeros(num_words, np.int32)
    words = distinct_words(captions)[:num_words]
    row[: len(words)] = [(zlib.crc32(word.encode()) >> 1) or 1 for word in words]
    return row


def rare_words(source: Source) -> frozenset[str]:
    """Returns the words that only one record's captions have; records of equal captions are one.

    Records that cannot be used are left out here, and reported when their turn comes in training. Raises UserError
    where one cannot be reached: without it the captions of others would not be those of the next start.
    """
    counts = Counter(word for captions in _distinct_captions(source) for word in distinct_words(captions))
    return frozenset(word for word, count in counts.items() if count == 1)


def _distinct_captions(source: Source) -> set[tuple[str, ...]]:
    distinct = set()
    for index in range(len(source)):
        try:
            distinct.add(source[index].captions)
        except Unreachable as error:
            raise UserError(f"record {index} cannot be reached ({error}): see that the data is there") from error
        except BadRecord:
            continue
    return distinct
