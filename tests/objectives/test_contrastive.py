"""The contrastive objective: what it gives its loss, from the batch and its config."""

import jax
import numpy as np
import pytest

from mmjax.errors import UserError
from mmjax.losses import contrastive
from mmjax.losses.soft_targets import word_overlap
from mmjax.objectives.contrastive import Contrastive, ContrastiveConfig
from tests import tiny
from tests.tolerances import LAYER
from tests.training.toy import Toy


def batch() -> dict[str, np.ndarray]:
    rows = tiny.batch(8, 0)
    rows["ids"] = np.arange(8, dtype=np.int32)
    rows["words"] = np.asarray([[1 + row % 3, 1 + row, 0] for row in range(8)], np.int32)
    return rows


def loss_of(overlap_target: float, model: Toy) -> float:
    objective, rows = Contrastive(ContrastiveConfig(overlap_target=overlap_target)), batch()
    loss, _ = objective.loss(model, objective.encode(model, rows, None), rows, {}, None)
    return float(loss.total.value)


def test_overlap_of_words_softens_the_targets():
    model, rows = Toy(jax.random.key(0)), batch()
    embeds = Contrastive(ContrastiveConfig()).encode(model, rows, None)
    soft_targets = 0.5 * word_overlap(rows["words"], rows["weights"])
    args = (embeds["image"], embeds["text"], model.log_scale[...], model.bias(), rows["ids"], rows["weights"])
    expected = contrastive(*args, kind="sigmoid", soft_targets=soft_targets)
    assert loss_of(0.5, model) == pytest.approx(float(expected.value), rel=LAYER)
    assert loss_of(0.5, model) != pytest.approx(loss_of(0.0, model), rel=1e-2)


def test_a_target_is_a_share():
    with pytest.raises(UserError, match=r"objective.overlap_target = 1.5 is not in \[0, 1\]"):
        ContrastiveConfig(overlap_target=1.5)
