"""Which of a record's captions a training example shows; evaluation always shows the main one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmjax.data.nearest import unknown_name

STYLES = ("main", "any", "tags")


@dataclass(frozen=True)
class CaptionConfig:
    """How the training caption is chosen.

    Attributes:
      style: "main" takes the main caption; "any" takes one of all captions (data sets with several full captions an
        image); "tags" takes the others for key words and mixes them in, by the rates below.
      tag_rate: probability that tags are mixed in.
      max_tags: tags mixed in are 1 to max_tags, each number as likely.
      tags_only_rate: probability that a caption with tags leaves the main caption out.
      shuffle: whether the main caption may stand at any place among the tags, else it is first.
    """

    style: str = "main"
    tag_rate: float = 0.5
    max_tags: int = 3
    tags_only_rate: float = 0.2
    shuffle: bool = False

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise unknown_name("data.captions.style", self.style, STYLES)


def choose(captions: Sequence[str], config: CaptionConfig, rng: np.random.Generator) -> str:
    """Returns the caption to train on, drawn from rng ("label", "label, tag, tag" or "tag, tag")."""
    if config.style == "main" or len(captions) == 1:
        return captions[0]
    if config.style == "any":
        return captions[int(rng.integers(len(captions)))]
    return _mix_tags(captions[0], captions[1:], config, rng)


def _mix_tags(label: str, tags: Sequence[str], config: CaptionConfig, rng: np.random.Generator) -> str:
    mixes, drops = rng.random(2) < (config.tag_rate, config.tags_only_rate)
    if not mixes or config.max_tags < 1:
        return label
    num_tags = min(len(tags), 1 + int(rng.integers(config.max_tags)))
    words = [tags[place] for place in rng.permutation(len(tags))[:num_tags]]
    if not drops:
        words.insert(int(rng.integers(num_tags + 1)) if config.shuffle else 0, label)
    return ", ".join(words)
