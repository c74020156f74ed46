"""Words of captions: plain and distinct, their hashes fixed, the rare ones those of one record."""

import numpy as np

from mmjax.data.records import Record
from mmjax.data.words import distinct_words, hashes, rare_words
from tests.data.tiny_sources import MemorySource


def test_words_are_plain_and_distinct() -> None:
    assert distinct_words(("Flag: Nauru", "flag", "–  nr, -")) == ["flag", "nauru", "–", "nr"]


def test_hashes_fill_a_row_and_are_the_same_everywhere() -> None:
    row = hashes(("Flag: Nauru", "flag"), 4)
    np.testing.assert_array_equal(row, np.asarray([1761244621, 108219669, 0, 0], np.int32))
    np.testing.assert_array_equal(hashes(("Flag: Nauru",), 1), row[:1])


def test_rare_words_are_those_of_one_record() -> None:
    rose = Record(b"", ("Red rose", "flower, red"), None, "noto")
    tulip = Record(b"", ("tulip:", "Flower"), None, "tulip")
    assert rare_words([rose, rose, tulip]) == {"red", "rose", "tulip"}


def test_records_that_cannot_be_read_have_no_words() -> None:
    assert rare_words(MemorySource(3, missing=[1])) == {"0", "2"}
