"""The pretraining losses of LXMERT and of MAE against Hugging Face's, from the same predictions."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.losses import pairs, regions
from mmjax.nn.stem import patches_of
from mmjax.types import Mean
from tests.tolerances import LAYER

torch = pytest.importorskip("torch", reason="parity needs torch, which requirements-dev.txt installs")
transformers = pytest.importorskip("transformers")

NUM_ROWS, TEXT_LEN, NUM_REGIONS, VOCAB_SIZE, NUM_ANSWERS, FEATURE_DIM = 8, 6, 3, 30, 5, 4
NUM_LABELS = {"obj": 7, "attr": 6}
VISUAL = {
    "obj": regions.class_cross_entropy,
    "attr": regions.class_cross_entropy,
    "feat": regions.smooth_feature_regression,
}
IGNORED = -100
"""Hugging Face's label of a token that is not masked and of a question without an answer."""

Arrays = dict[str, np.ndarray]


def lxmert() -> Any:
    """One layer of each kind, with weights that are far from their first ones, whose logits are all alike."""
    config = transformers.LxmertConfig(
        **{"l_layers": 1, "x_layers": 1, "r_layers": 1, "hidden_size": 24, "num_attention_heads": 3},
        **{"intermediate_size": 20, "vocab_size": VOCAB_SIZE, "num_qa_labels": NUM_ANSWERS},
        **{"num_object_labels": NUM_LABELS["obj"], "num_attr_labels": NUM_LABELS["attr"]},
        visual_feat_dim=FEATURE_DIM,
    )
    model = transformers.LxmertForPreTraining(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator)
    return model


def inputs() -> Arrays:
    rng = np.random.default_rng(0)
    return {
        "input_ids": rng.integers(1, VOCAB_SIZE, (NUM_ROWS, TEXT_LEN)),
        "visual_feats": rng.normal(size=(NUM_ROWS, NUM_REGIONS, FEATURE_DIM)).astype(np.float32),
        "visual_pos": rng.random((NUM_ROWS, NUM_REGIONS, 4), np.float32),
    }


def labels() -> Arrays:
    """Also confidences: a detector's in objects and attributes, and 0 or 1 for features, which are masked or not."""
    rng, texts, images = np.random.default_rng(1), (NUM_ROWS, TEXT_LEN), (NUM_ROWS, NUM_REGIONS)
    return {
        "labels": np.where(rng.random(texts) < 0.3, rng.integers(0, VOCAB_SIZE, texts), IGNORED),
        "matched_label": rng.integers(0, 2, NUM_ROWS),
        "ans": np.where(rng.random(NUM_ROWS) < 0.5, rng.integers(0, NUM_ANSWERS, NUM_ROWS), IGNORED),
        "obj": rng.integers(0, NUM_LABELS["obj"], images),
        "attr": rng.integers(0, NUM_LABELS["attr"], images),
        "feat": 2 * rng.normal(size=(*images, FEATURE_DIM)).astype(np.float32),
        "obj_confidences": rng.random(images, np.float32),
        "attr_confidences": rng.random(images, np.float32),
        "feat_confidences": rng.choice(np.float32([0, 1]), images),
    }


def logits_of(model: Any) -> Arrays:
    """By the names of their labels."""
    tensors = {name: torch.from_numpy(array) for name, array in inputs().items()}
    with torch.no_grad():
        found = model(**tensors)
        visual = model.obj_predict_head(model.lxmert(**tensors).vision_output)
    others = (found.prediction_logits, found.cross_relationship_score, found.question_answering_score)
    named = visual | dict(zip(("labels", "matched_label", "ans"), others, strict=True))
    return {name: tensor.numpy() for name, tensor in named.items()}


def theirs(model: Any, *names: str) -> float:
    """The sum of the losses of these names; without confidences a visual loss is 0."""
    given = {name: torch.from_numpy(array) for name, array in (inputs() | labels()).items()}
    visual = {name: (given[name], given[f"{name}_confidences"] * (name in names)) for name in VISUAL}
    needed = {name: given[name] for name in (*inputs(), *(name for name in names if name not in VISUAL))}
    return model(**needed, obj_labels=visual).loss.item()


def ours(model: Any) -> dict[str, float]:
    """Visual losses are means over all regions, times 1/0.15."""
    logits, given, ones = logits_of(model), labels(), np.ones(NUM_ROWS, np.float32)
    is_masked, all_regions = given["labels"] != IGNORED, np.ones((NUM_ROWS, NUM_REGIONS), bool)
    losses = {
        "labels": regions.class_cross_entropy(logits["labels"], given["labels"], is_masked, ones),
        "matched_label": pairs.pair_cross_entropy(logits["matched_label"], given["matched_label"], ones),
        "ans": pairs.answer_cross_entropy(logits["ans"], given["ans"], ones),
    }
    for name, loss in VISUAL.items():
        mean = loss(logits[name], given[name], all_regions, ones, given[f"{name}_confidences"])
        losses[name] = Mean(model.config.visual_loss_normalizer * mean.sum, mean.count)
    return {name: float(loss.value) for name, loss in losses.items()}


def test_each_loss_of_lxmert_and_their_sum():
    model = lxmert()
    found = ours(model)
    for name, loss in found.items():
        assert loss > 0.1
        assert loss == pytest.approx(theirs(model, name), rel=LAYER), name
    assert sum(found.values()) == pytest.approx(theirs(model, *found), rel=LAYER)


@pytest.mark.parametrize("normalised", [False, True])
def test_masked_patches_of_mae(normalised):
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"image_size": 12, "patch_size": 4, "norm_pix_loss": normalised}
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 8, "intermediate_size": 8}
    config = transformers.ViTMAEConfig(**sizes, **layers, **{f"decoder_{name}": size for name, size in layers.items()})
    pixels = torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        found = transformers.ViTMAEForPreTraining(config)(pixels)
    targets = patches_of(jnp.asarray(pixels.numpy().transpose(0, 2, 3, 1)), 4)
    targets = regions.normalised_patches(targets) if normalised else targets
    loss = regions.feature_regression(found.logits.numpy(), targets, found.mask.numpy() > 0, np.ones(2, np.float32))
    assert float(loss.value) == pytest.approx(found.loss.item(), rel=LAYER)
