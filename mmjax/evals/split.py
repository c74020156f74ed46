"""A split of a data set as evaluations see it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from mmjax.evals.embed import Encoders, ImageEmbeds, Tokenize, embed_images
from mmjax.types import HostBatch, Params


class CaptionedRecord(Protocol):
    """What an evaluation reads of a record: its captions, the main one first, and its class if it has one."""

    @property
    def captions(self) -> tuple[str, ...]: ...

    @property
    def class_name(self) -> str | None: ...


class CaptionedRecords(Protocol):
    """Random access to the records of a split; reading one must not decode its image."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> CaptionedRecord: ...


@dataclass(frozen=True)
class EvalSplit:
    """Records, and how their images and texts become arrays.

    `batches()` starts a fresh pass over the rows in order, as host batches of one size (this process's rows of each);
    rows that fill the last batch, and records that could not be read, have weight 0 and are left out of every score.
    """

    records: CaptionedRecords
    batches: Callable[[], Iterable[HostBatch]]
    tokenize: Tokenize
    text_batch_size: int = 256

    def embed_images(self, encoders: Encoders, params: Params) -> ImageEmbeds:
        return embed_images(encoders, params, self.batches())
