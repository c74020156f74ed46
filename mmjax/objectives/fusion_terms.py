"""What a fusion model is trained on: the terms of its loss, as configs."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from mmjax.errors import UserError
from mmjax.losses.info_nce import clamped_log_scale
from mmjax.objectives.masking import MaskingConfig, Vocabulary
from mmjax.objectives.negatives import Mode
from mmjax.types import Array

Form = Literal["plain", "masked"]
"""A text or image as it is, or with a part of it hidden."""
Partner = Literal["own", "other image", "other text"]
"""Text and image of one example, or a negative in place of one of them."""


class Pair(NamedTuple):
    """What the fusion sees of an example."""

    text: Form
    image: Form
    partner: Partner


@dataclass(frozen=True)
class TermConfig:
    """One term.

    weight: what it is multiplied with in a sum, or in proportion to which it is drawn.
    text, image: the forms of both that the fusion sees. What several terms want to see, it sees once.
    """

    weight: float = 1.0
    text: Form = "plain"
    image: Form = "plain"

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise UserError(
                f"weight {self.weight} of {type(self).__name__} must be above 0: leave the term out instead"
            )

    @property
    def partners(self) -> tuple[Partner, ...]:
        """Of which the fusion's output is read."""
        return ("own",)

    def pair(self, partner: Partner = "own") -> Pair:
        return Pair(self.text, self.image, partner)


@dataclass(frozen=True)
class ContrastTerm(TermConfig):
    """Image-text contrast of the towers, before the fusion (ALBEF, Li et al., 2021, section 3.2).

    queue_batches: batches of a momentum teacher's embeddings to compare with; 0 compares within the batch, without one.
    momentum, distillation, distillation_steps: of the teacher, see `MomentumConfig`; masked words may have it too.
    largest_scale: bound of the learned scale.
    """

    queue_batches: int = 0
    momentum: float = 0.995
    distillation: float = 0.4
    distillation_steps: int = 0
    largest_scale: float = 100.0

    @property
    def partners(self) -> tuple[Partner, ...]:
        return ()

    def bounded(self, log_scale: Array) -> Array:
        """The logarithm of the scale that similarities are multiplied with, everywhere where they are."""
        return clamped_log_scale(log_scale, self.largest_scale)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.queue_batches < 0 or not 0 <= self.momentum < 1 or not 0 <= self.distillation <= 1:
            raise UserError(f"{self}: queue_batches is at least 0, momentum in [0, 1), distillation in [0, 1]")


@dataclass(frozen=True)
class MatchTerm(TermConfig):
    """Whether text and image belong together (image-text matching).

    negatives: "hard", drawn by similarity of the towers, one text for each image and one image for each text (ALBEF);
        or "random", another image for each text (UNITER). Similarities are what the contrast trains: without one they
        stay what the towers start with.
    choice: what the choice between a pair and each of its negatives counts, beside the question whether each belongs
        together (ViLBERT, Lu et al., 2019, section 3.2): reranking compares, and a level that is wrong for an image
        lifts all of its pairs.
    """

    negatives: Mode = "hard"
    choice: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.choice < 0:
            raise UserError(f"choice {self.choice} of MatchTerm must be at least 0, which leaves it out")

    @property
    def partners(self) -> tuple[Partner, ...]:
        return ("own", "other image", "other text") if self.negatives == "hard" else ("own", "other image")


@dataclass(frozen=True)
class TokenTerm(TermConfig):
    """Masked words, guessed from the others and the image.

    mask_id, special_ids: of the tokenizer; by default BERT's.
    chunk: positions whose logits are held at once, see `losses.tokens`.
    distilled: the momentum teacher of the contrast says how likely other words are too, in the share that it has there
        (ALBEF, Li et al., 2021, section 3.3).
    """

    text: Form = "masked"
    masking: MaskingConfig = MaskingConfig()
    mask_id: int = 103
    special_ids: tuple[int, ...] = (0, 100, 101, 102, 103)
    chunk: int = 1024
    distilled: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text != "masked":
            raise UserError("masked words need a text that is masked: set text of TokenTerm to 'masked'")
        if self.distilled and self.image != "plain":
            raise UserError("a teacher of masked words sees the whole image: set image of TokenTerm to 'plain'")

    def vocabulary(self, size: int) -> Vocabulary:
        return Vocabulary(size, self.mask_id, self.special_ids)


@dataclass(frozen=True)
class RegionTerm(TermConfig):
    """Masked regions or patches, predicted from the others and the text.

    kind: "features" of regions, as a regression; their "classes", or the "divergence" from the detector's
        probabilities; "pixels" of patches, normalised patch by patch.
    rate: share of the regions that are hidden, at least one of each image.
    target: which classes, where a model predicts several: the name of the head's output, and of the batch's field
        behind `region_`. LXMERT has "objects" and "attributes".
    confidence: classes count as much as `region_TARGET_confidence`, the detector's, says.
    everywhere: of all regions, those that are not hidden included; LXMERT's classes are.
    smooth: the regression of features is by the smooth L1 loss (LXMERT), in place of squares.
    """

    image: Form = "masked"
    kind: Literal["features", "classes", "divergence", "pixels"] = "features"
    rate: float = 0.15
    target: str = "classes"
    confidence: bool = False
    everywhere: bool = False
    smooth: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image != "masked":
            raise UserError("masked regions need an image that is masked: set image of RegionTerm to 'masked'")
        if not 0 < self.rate < 1:
            raise UserError(f"rate {self.rate} of RegionTerm is not in (0, 1): UNITER has 0.15")
        if self.kind != "classes" and (self.target != "classes" or self.confidence):
            raise UserError(f"target and confidence of RegionTerm are for classes, but kind is {self.kind!r}")
        if self.kind != "features" and self.smooth:
            raise UserError(f"smooth of RegionTerm is for features, but kind is {self.kind!r}: leave it out")

    @property
    def name(self) -> str:
        """What the term is called in logs."""
        return f"region_{self.target if self.kind == 'classes' else self.kind}"

    @property
    def output(self) -> str:
        """The output of the region heads that it reads."""
        return {"classes": self.target, "divergence": "classes"}.get(self.kind, self.kind)

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of a batch that it reads, what is predicted first."""
        what = {"classes": self.target, "divergence": "probabilities"}.get(self.kind, self.kind)
        if self.kind == "pixels":
            return ()
        return (f"region_{what}", f"region_{what}_confidence") if self.confidence else (f"region_{what}",)


@dataclass(frozen=True)
class FollowTerm(TermConfig):
    """Whether the second of two texts belongs with the first, `follows` int32 (b,) of the batch, 1 or 0; read from the
    head of the pair, of which class 1 is that it does.

    Of sentences it is BERT's (Devlin et al., 2019, section 3.1, task 2), whose authors have class 0 for it; of captions
    beside an image VisualBERT's (Li et al., 2019, section 3.3).
    """

    text: Form = "masked"


@dataclass(frozen=True)
class AlignTerm(TermConfig):
    """Words and regions of a pair brought together by optimal transport, and those of others apart (UNITER)."""

    weight: float = 0.1

    @property
    def partners(self) -> tuple[Partner, ...]:
        return ("own", "other image")


@dataclass(frozen=True)
class AnswerTerm(TermConfig):
    """The answer to a question that the text asks, `answers` int32 (b,) of the batch; -1 is none (LXMERT)."""
