"""Zero-shot classification: the class whose prompts lie nearest to the image."""

from dataclasses import dataclass, field

import numpy as np

from mmjax.errors import UserError
from mmjax.evals.embed import embed_texts
from mmjax.evals.ranking import hit_rate, ranks
from mmjax.evals.seen import Seen

TEMPLATES = ("{}", "a picture of {}", "an icon of {}")


@dataclass(frozen=True)
class ZeroShotConfig:
    """`templates`: prompts with `{}` where the class name goes; their embeddings are averaged."""

    templates: tuple[str, ...] = TEMPLATES

    def __post_init__(self) -> None:
        lacking = [template for template in self.templates if "{}" not in template]
        if lacking or not self.templates:
            wrong = lacking[0] if lacking else "an empty list"
            raise UserError(f"evals.zero_shot.templates: {wrong!r} has no place for the class name; write {{}} there")


@dataclass(frozen=True)
class ZeroShotEval:
    """Accuracy of naming the class of an image, among the classes that occur in the split, without training on them.

    A class embedding is the normalised mean of the normalised embeddings of its prompts (Radford et al. 2021, section
    3.1.4). `top1` and `top5` are shares of images; `mean_per_class` is the mean over classes of the top-1 share, in
    which large classes do not hide small ones. Ties count against the model. Rows without a class are left out.

    It does not measure classification in general: it depends on the wording of class names and templates, and on how
    many classes there are. Classes of a data set that was trained on are unseen as labels, not as concepts.
    """

    config: ZeroShotConfig = field(default_factory=ZeroShotConfig)

    def score(self, seen: Seen) -> dict[str, float]:
        """The shares.

        Raises:
            UserError: no row of the split has a class.
        """
        images = seen.images
        row_classes = [seen.split.records[int(row)].class_name for row in images.rows]
        names = sorted({name for name in row_classes if name is not None})
        if not names:
            raise UserError("zero-shot classification needs classes, and the split has none: unset evals.zero_shot")
        kept = np.array([index for index, name in enumerate(row_classes) if name is not None])
        labels = np.array([names.index(name) for name in row_classes if name is not None])
        classes = self._class_embeds(seen, names)
        right = np.stack([np.arange(len(kept)), labels], axis=1)
        return _accuracies(ranks(images.embeds[kept], classes, right), labels)

    def _class_embeds(self, seen: Seen, names: list[str]) -> np.ndarray:
        """(classes, e) float32, L2-normalised."""
        templates = self.config.templates
        prompts = [template.replace("{}", spoken(name)) for name in names for template in templates]
        how = seen.split.tokenize, prompts, seen.split.text_batch_size
        embeds = embed_texts(seen.encoders, seen.params, *how).embeds
        means = embeds.reshape(len(names), len(templates), -1).mean(axis=1)
        return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def spoken(name: str) -> str:
    """A class name as a caption would have it: `face-smiling` is read as "face smiling"."""
    return name.replace("-", " ").replace("_", " ")


def _accuracies(rank: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    per_class = [hit_rate(rank[labels == label], 1) for label in np.unique(labels)]
    counts = {"num_classes": float(len(per_class)), "num_images": float(len(labels))}
    return {"top1": hit_rate(rank, 1), "top5": hit_rate(rank, 5), "mean_per_class": float(np.mean(per_class))} | counts
