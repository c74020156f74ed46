"""The settings of the data pipeline."""

from dataclasses import dataclass, field

from mmjax.data.augment import AugmentConfig
from mmjax.data.captions import CaptionConfig
from mmjax.data.mixture import PartConfig
from mmjax.data.patience import RETRY_SECS
from mmjax.data.preprocess import PreprocessConfig
from mmjax.data.regions import RegionsConfig
from mmjax.errors import UserError


@dataclass(frozen=True)
class DataConfig:
    """What to read, and how to make batches of it.

    Attributes:
      source: one of `sources.specs.KINDS`, such as "emoji", "tfds:DIR" or "wds:PATTERN".
      split: name or TFDS expression of the split to train on.
      mixture: several sources to train on in place of `source` and `split`, which evaluations still read.
      temperature: weights of the mixture are raised to the power 1 / temperature; above 1 small sources gain.
      batch_size: examples of a global batch, over all processes.
      text_len: tokens of a text, its end token included; longer texts are cut.
      tokenizer: "emoji" (the shipped one), "emoji+mask" (with a start token and a mask), a folder, or a hub name of
        Hugging Face.
      text_rules: what texts are put in order by before the tokenizer: "none", "plain", "clip" or "siglip" (see
        `text_rules`), for tokenizers that keep them.
      locale: language of the emoji captions.
      image_key, text_key: features of a TFDS directory, members of tars ("json/caption" is a field of one), or columns
        of a table; text_key also that of an image folder. Where image_key is "" no pixels are read: of texts alone, or
        of `regions` without them.
      answer_key: feature of a TFDS directory with the class of the answer to the question that the text asks, for
        `objective.answers`; "" has none. -1, and a label that no model has, is no answer.
      regions: what is read of images in place of their pixels, from a TFDS directory.
      num_words: words of all its captions that a training example carries along, for `objective.overlap_target`; where
        there are more, the rest is left out.
      word_starts: training examples say which tokens begin a word, for masking whole words.
      num_threads: threads that read and decode, of each process that does; 0 does it in the calling thread.
      num_workers: processes that read and decode beside the one that trains, for what one Python cannot do with its
        threads; 0 has none.
      prefetch: batches prepared ahead.
      cache_bytes: memory for decoded images, so that a small data set is decoded once; workers share it evenly.
      max_bad_share: share of records that cannot be used past which the run stops.
      retry_secs: how long a record that cannot be reached is tried again before its row is skipped.
    """

    source: str = "emoji"
    split: str = "train"
    mixture: tuple[PartConfig, ...] = ()
    temperature: float = 1.0
    batch_size: int = 256
    text_len: int = 16
    tokenizer: str = "emoji"
    text_rules: str = "none"
    locale: str = "en"
    image_key: str = "image"
    text_key: str = "text"
    answer_key: str = ""
    regions: RegionsConfig | None = None
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    captions: CaptionConfig = field(default_factory=CaptionConfig)
    num_words: int = 0
    word_starts: bool = False
    num_threads: int = 4
    num_workers: int = 0
    prefetch: int = 2
    cache_bytes: int = 256 * 2**20
    max_bad_share: float = 0.01
    retry_secs: float = RETRY_SECS

    def __post_init__(self) -> None:
        for name in ("num_threads", "num_workers", "prefetch"):
            if getattr(self, name) < 0:
                raise UserError(f"data.{name} = {getattr(self, name)} is below 0: give 0 or more")

    @property
    def training_sources(self) -> tuple[str, ...]:
        """What is trained on."""
        return tuple(part.source for part in self.mixture) or (self.source,)
