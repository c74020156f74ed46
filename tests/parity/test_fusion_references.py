"""Fusion models under the names of their authors' weights, against what their authors' code makes of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmjax.interop.fusion.uniter import UNITER
from mmjax.interop.fusion.vilbert import VILBERT
from mmjax.interop.huggingface.files import CONFIG
from mmjax.models.fusion.model import FusionConfig
from mmjax.types import Params
from tests.parity.fusion_models import Run, filled, round_trip
from tests.parity.reference import seeded
from tests.tolerances import LAYER, MODEL, above, relative_errors

REFERENCE = Path(__file__).parent / "reference"
FORMATS = {"vilbert": VILBERT, "uniter": UNITER}
CASES = ("full", "padded")


class Facts:
    """What is known of one reference model: its weights, its inputs, and what it computes from them."""

    def __init__(self, name: str):
        about = json.loads((REFERENCE / f"{name}.json").read_text())
        self.format = FORMATS[name.split("_")[0]]
        self.about, self.tied = about, about["tied"]
        self.weights = seeded.weights(about["parameters"], about["tied"])
        self.outputs = np.load(REFERENCE / f"{name}.npz")
        self.model: FusionConfig = self.format.read({CONFIG: about["config"]}).model
        own = (array for name, array in self.weights.items() if name not in self.tied)
        assert seeded.crc32(own) == about["weights_crc32"]

    @property
    def params(self) -> Params:
        return filled(self.format, self.model, self.weights)

    def batch(self, case: str) -> seeded.Batch:
        return seeded.inputs(**self.about["inputs"], padded=case == "padded")

    def errors(self, case: str, found: dict[str, Any]) -> dict[str, float]:
        """Of every output in `found`, whole or as a sample."""
        expected = {name: self.outputs[f"{case}/{name}"] for name in found}
        stored = {
            name: seeded.sample(array) if array.shape != expected[name].shape else array
            for name, array in found.items()
        }
        return relative_errors(stored, expected)


def regions_of(batch: seeded.Batch) -> dict[str, Any]:
    return {
        "text_ids": batch.text_ids,
        "text_mask": batch.text_mask,
        "region_features": batch.features,
        "region_boxes": batch.boxes,
        "region_mask": batch.region_mask,
    }


def vilbert_outputs(facts: Facts, case: str) -> dict[str, Any]:
    batch = facts.batch(case)
    run = Run(facts.model, facts.params)
    streams, outputs = run(regions_of(batch), batch.masked_regions)
    names = {
        "text_pooled": "text_pooled",
        "image_pooled": "image_pooled",
        "token_logits": "token_logits",
        "region_logits": "classes",
        "pair_logits": "pair_logits",
    }
    return {"text": streams.text, "image": streams.image, **{a: outputs[b] for a, b in names.items()}}


def uniter_outputs(facts: Facts, case: str) -> dict[str, Any]:
    """The reference has no outputs at padding, and logits of what is masked alone."""
    batch = facts.batch(case)
    run = Run(facts.model, facts.params)
    (text, image), plain = run(regions_of(batch))
    (text_masked, image_masked), masked = run(regions_of(batch), batch.masked_regions)
    return {
        "text": text * batch.text_mask[..., None],
        "image": image * batch.region_mask[..., None],
        "text_masked": text_masked * batch.text_mask[..., None],
        "image_masked": image_masked * batch.region_mask[..., None],
        "pooled": plain["text_pooled"],
        "token_logits": plain["token_logits"][batch.text_labels != -1],
        "pair_logits": plain["pair_logits"],
        "region_features": masked["features"][batch.masked_regions],
        "region_logits": masked["classes"][batch.masked_regions],
    }


OUTPUTS = {"vilbert": vilbert_outputs, "uniter": uniter_outputs}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["vilbert_small", "uniter_small"])
def test_small(name: str, case: str) -> None:
    facts = Facts(name)
    found = OUTPUTS[name.split("_")[0]](facts, case)
    assert above(facts.errors(case, found), 2 * LAYER) == {}


@pytest.mark.parametrize("name", ["vilbert_base", "uniter_base"])
def test_base(name: str) -> None:
    """Samples of all outputs of the published sizes; 1e-4 absolute too, as numbers are of order 1."""
    facts = Facts(name)
    for case in CASES:
        found = OUTPUTS[name.split("_")[0]](facts, case)
        assert above(facts.errors(case, found), MODEL) == {}
        for output, array in found.items():
            expected = facts.outputs[f"{case}/{output}"]
            sample = array if array.shape == expected.shape else seeded.sample(array)
            assert np.abs(sample - expected).max() < MODEL, output


@pytest.mark.parametrize("name", ["vilbert_small", "uniter_small"])
def test_there_and_back(name: str) -> None:
    """Every name of the reference's state dict comes back, tied ones too, bit for bit but for what is never used."""
    facts = Facts(name)
    returned = round_trip(facts.format, facts.model, facts.weights)
    unused = set(facts.about.get("unused", ()))
    assert returned.keys() == facts.weights.keys()
    for key, array in facts.weights.items():
        if key in unused:
            assert not returned[key].any()
        elif key.endswith("mask_embedding.weight"):
            np.testing.assert_array_equal(returned[key], np.stack([np.zeros_like(array[0]), array[1]]))
        else:
            np.testing.assert_array_equal(returned[key], array, err_msg=key)


@pytest.mark.parametrize("name", ["vilbert_base", "uniter_base", "uniter_large"])
def test_published_sizes_have_the_reference_s_names_and_shapes(name: str) -> None:
    about = json.loads((REFERENCE / f"{name}.json").read_text())
    format = FORMATS[name.split("_")[0]]
    model = format.read({CONFIG: about["config"]}).model
    weights = {key: np.broadcast_to(np.float32(0), shape) for key, shape in about["parameters"]}
    params = filled(format, model, weights)
    written = dict(format.tensors(model, params))
    assert {key: list(array.shape) for key, array in written.items()} == dict(about["parameters"])


def test_a_tied_tensor_that_differs_is_named() -> None:
    facts = Facts("uniter_small")
    weights = {**facts.weights, "feat_regress.weight": facts.weights["feat_regress.weight"] + 1}
    with pytest.raises(Exception, match=r"feat_regress\.weight is tied to uniter\.img_embeddings\.img_linear\.weight"):
        filled(facts.format, facts.model, weights)


def test_configs_come_back() -> None:
    for name in ("vilbert_small", "vilbert_base", "uniter_small", "uniter_base", "uniter_large"):
        about = json.loads((REFERENCE / f"{name}.json").read_text())
        format = FORMATS[name.split("_")[0]]
        spec = format.read({CONFIG: about["config"]})
        assert format.read(format.write(spec)) == spec
