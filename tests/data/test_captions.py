"""Training captions mix tags in at the rates asked for, the same rng the same caption; evaluation's are fixed."""

import numpy as np
import pytest

from mmjax.data.captions import CaptionConfig, choose, for_evaluation
from mmjax.data.records import Record
from mmjax.errors import UserError

CAPTIONS = ("rose", "flower", "red", "plant", "love")


def draws(config: CaptionConfig, count: int = 400) -> list[str]:
    return [choose(CAPTIONS, config, np.random.default_rng(seed)) for seed in range(count)]


def test_main_style_is_always_the_main_caption() -> None:
    assert set(draws(CaptionConfig(style="main"), 20)) == {"rose"}


def test_any_style_shows_all_captions() -> None:
    assert set(draws(CaptionConfig(style="any"))) == set(CAPTIONS)


def test_tags_come_at_their_rates() -> None:
    texts = draws(CaptionConfig(style="tags", tag_rate=0.5, tags_only_rate=0.25, max_tags=2))
    assert 0.4 < texts.count("rose") / len(texts) < 0.6
    mixed = [text.split(", ") for text in texts if text != "rose"]
    assert 0.15 < sum("rose" not in words for words in mixed) / len(mixed) < 0.35
    assert {len([word for word in words if word != "rose"]) for words in mixed} == {1, 2}
    assert all(words[0] == "rose" for words in mixed if "rose" in words)


def test_shuffle_moves_the_main_caption() -> None:
    texts = draws(CaptionConfig(style="tags", tag_rate=1.0, tags_only_rate=0.0, shuffle=True))
    assert {text.split(", ").index("rose") for text in texts} == {0, 1, 2, 3}


def test_no_tags_leave_the_main_caption() -> None:
    assert choose(("rose",), CaptionConfig(style="tags", tag_rate=1.0), np.random.default_rng(0)) == "rose"


def test_an_unknown_style_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"'tag' does not exist: did you mean tags"):
        CaptionConfig(style="tag")
    with pytest.raises(UserError, match=r"data.captions.evaluation 'al' does not exist: did you mean all"):
        CaptionConfig(evaluation="al")


def test_a_separator_stands_between_tags() -> None:
    texts = draws(CaptionConfig(style="tags", tag_rate=1.0, tags_only_rate=0.0, separator=" "))
    assert all(text.startswith("rose ") and "," not in text for text in texts)


def test_evaluation_shows_the_main_caption_or_all_of_them() -> None:
    source = [Record(b"", CAPTIONS, "plant", "rose.png"), Record(b"", ("tulip",), "plant", "tulip.png")]
    assert for_evaluation(source, CaptionConfig()) is source
    joined = for_evaluation(source, CaptionConfig(evaluation="all", separator=" "))
    assert [joined[row].captions for row in range(len(joined))] == [("rose flower red plant love",), ("tulip",)]
    assert [joined[row].class_name for row in range(2)] == ["plant", "plant"]


def test_rare_words_are_dropped_at_their_rate() -> None:
    config = CaptionConfig(style="main", rare_drop_rate=0.25)
    captions = ("Red rose: flower",)
    texts = [choose(captions, config, np.random.default_rng(seed), frozenset({"rose"})) for seed in range(400)]
    assert set(texts) == {"Red rose: flower", "Red flower"}
    assert 0.15 < texts.count("Red flower") / len(texts) < 0.35


def test_a_caption_of_rare_words_alone_stays() -> None:
    config = CaptionConfig(style="main", rare_drop_rate=1.0)
    assert choose(("rose",), config, np.random.default_rng(0), frozenset({"rose"})) == "rose"
