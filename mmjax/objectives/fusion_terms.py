"""What a fusion model is trained on: the terms of its loss, as configs."""

from dataclasses import dataclass
from typing import Literal

from mmjax.errors import UserError
from mmjax.objectives.masking import MaskingConfig, Vocabulary
from mmjax.objectives.negatives import Mode

Form = Literal["plain", "masked"]
"""A text or image as it is, or with a part of it hidden."""


@dataclass(frozen=True)
class TermConfig:
    """One term.

    weight: what it is multiplied with in a sum, or in proportion to which it is drawn.
    text, image: the forms of both that the fusion sees. Terms of the same forms share a pass through it.
    """

    weight: float = 1.0
    text: Form = "plain"
    image: Form = "plain"

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise UserError(
                f"weight {self.weight} of {type(self).__name__} must be above 0: leave the term out instead"
            )


@dataclass(frozen=True)
class ContrastTerm(TermConfig):
    """Image-text contrast of the towers, before the fusion (ALBEF, Li et al., 2021, section 3.2).

    queue_batches: batches of a momentum teacher's embeddings to compare with; 0 compares within the batch, without one.
    momentum, distillation, distillation_steps: of the teacher, see `MomentumConfig`.
    largest_scale: bound of the learned scale.
    """

    queue_batches: int = 0
    momentum: float = 0.995
    distillation: float = 0.4
    distillation_steps: int = 0
    largest_scale: float = 100.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.queue_batches < 0 or not 0 <= self.momentum < 1 or not 0 <= self.distillation <= 1:
            raise UserError(f"{self}: queue_batches is at least 0, momentum in [0, 1), distillation in [0, 1]")


@dataclass(frozen=True)
class MatchTerm(TermConfig):
    """Whether text and image belong together (image-text matching).

    negatives: "hard", drawn by similarity of the towers, one text for each image and one image for each text (ALBEF);
        or "random", another image for each text (ViLBERT, UNITER).
    """

    negatives: Mode = "hard"


@dataclass(frozen=True)
class TokenTerm(TermConfig):
    """Masked words, guessed from the others and the image.

    mask_id, special_ids: of the tokenizer.
    chunk: positions whose logits are held at once, see `losses.tokens`.
    """

    text: Form = "masked"
    masking: MaskingConfig = MaskingConfig()
    mask_id: int = 103
    special_ids: tuple[int, ...] = (0, 100, 101, 102)
    chunk: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text != "masked":
            raise UserError("masked words need a text that is masked: set text of TokenTerm to 'masked'")

    def vocabulary(self, size: int) -> Vocabulary:
        return Vocabulary(size, self.mask_id, self.special_ids)


@dataclass(frozen=True)
class RegionTerm(TermConfig):
    """Masked regions or patches, predicted from the others and the text.

    kind: "features" of regions, as a regression; their "classes", or the "divergence" from the detector's
        probabilities; "pixels" of patches, normalised patch by patch.
    rate: share of the regions that are hidden, at least one of each image.
    """

    image: Form = "masked"
    kind: Literal["features", "classes", "divergence", "pixels"] = "features"
    rate: float = 0.15

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image != "masked":
            raise UserError("masked regions need an image that is masked: set image of RegionTerm to 'masked'")
        if not 0 < self.rate < 1:
            raise UserError(f"rate {self.rate} of RegionTerm is not in (0, 1): UNITER has 0.15")


@dataclass(frozen=True)
class AlignTerm(TermConfig):
    """Words and regions of a pair brought together by optimal transport, and those of others apart (UNITER)."""

    weight: float = 0.1


@dataclass(frozen=True)
class AnswerTerm(TermConfig):
    """The answer to a question that the text asks, `answers` int32 (b,) of the batch; -1 is none (LXMERT)."""
