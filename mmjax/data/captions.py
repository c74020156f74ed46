"""Which of a record's captions a training example shows, and which an evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmjax.data.nearest import unknown_name
from mmjax.data.records import Record, Source
from mmjax.data.words import plain
from mmjax.errors import UserError

STYLES = ("main", "any", "tags")
EVALUATIONS = ("main", "all")


@dataclass(frozen=True)
class CaptionConfig:
    """How the captions of training and evaluation are chosen.

    Attributes:
      style: "main" takes the main caption; "any" takes one of all captions (data sets with several full captions an
        image); "tags" takes the others for key words and mixes them in, by the rates below.
      tag_rate: probability that tags are mixed in.
      max_tags: tags mixed in are 1 to max_tags, each number as likely.
      tags_only_rate: probability that a caption with tags leaves the main caption out.
      shuffle: whether the main caption may stand at any place among the tags, else it is first.
      separator: what stands between captions that are joined.
      rare_drop_rate: probability that a caption leaves out its rare words, those that no other record's captions have,
        if others remain. New concepts are recognised by the words that they share with known ones; a caption without
        its rare words is learned by these. The words of all captions are counted at the start, in one pass.
      pair: a training text is two captions: one by `style`, and behind it the next one ("main"), or another one of the
        record. Sentences of a document, in order, are captions of a record, too.
      other_rate: probability that the second of a pair is the main caption of another record.
      evaluation: "main" evaluates on the main caption; "all" on all captions joined, for a label with key words.
    """

    style: str = "main"
    tag_rate: float = 0.5
    max_tags: int = 3
    tags_only_rate: float = 0.2
    shuffle: bool = False
    separator: str = ", "
    rare_drop_rate: float = 0.0
    pair: bool = False
    other_rate: float = 0.5
    evaluation: str = "main"

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise unknown_name("data.captions.style", self.style, STYLES)
        if self.pair and self.style == "tags":
            raise UserError(
                "data.captions.pair puts a caption behind another, but style 'tags' has one: use main or any"
            )
        if self.evaluation not in EVALUATIONS:
            raise unknown_name("data.captions.evaluation", self.evaluation, EVALUATIONS)


def choose(
    captions: Sequence[str], config: CaptionConfig, rng: np.random.Generator, rare: frozenset[str] = frozenset()
) -> str:
    """Returns the caption to train on, drawn from rng ("label", "label, tag, tag" or "tag, tag").

    `rare` are the words that `rare_drop_rate` is about, as `words.rare_words` gives them.
    """
    caption = _choose_style(captions, config, rng)
    if config.rare_drop_rate and rng.random() < config.rare_drop_rate:
        return " ".join([word for word in caption.split() if plain(word) not in rare]) or caption
    return caption


def _choose_style(captions: Sequence[str], config: CaptionConfig, rng: np.random.Generator) -> str:
    if config.style == "main" or len(captions) == 1:
        return captions[0]
    if config.style == "any":
        return captions[int(rng.integers(len(captions)))]
    return _mix_tags(captions[0], captions[1:], config, rng)


def second(captions: Sequence[str], first: str, config: CaptionConfig, rng: np.random.Generator) -> str:
    """Returns the caption of the same record that follows `first`; itself where there is no other."""
    others = [caption for caption in captions if caption != first] or [first]
    return others[0] if config.style == "main" else others[int(rng.integers(len(others)))]


def _mix_tags(label: str, tags: Sequence[str], config: CaptionConfig, rng: np.random.Generator) -> str:
    mixes, drops = rng.random(2) < (config.tag_rate, config.tags_only_rate)
    if not mixes or config.max_tags < 1:
        return label
    num_tags = min(len(tags), 1 + int(rng.integers(config.max_tags)))
    words = [tags[place] for place in rng.permutation(len(tags))[:num_tags]]
    if not drops:
        words.insert(int(rng.integers(num_tags + 1)) if config.shuffle else 0, label)
    return config.separator.join(words)


def for_evaluation(source: Source, config: CaptionConfig) -> Source:
    """The records with the caption that evaluations show as their main one."""
    return source if config.evaluation == "main" else _Joined(source, config.separator)


class _Joined:
    """Records whose one caption is all of theirs, in order."""

    def __init__(self, source: Source, separator: str):
        self._source, self._separator = source, separator

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        record = self._source[index]
        return replace(record, captions=(self._separator.join(record.captions),))
