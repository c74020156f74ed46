"""Fusion models against their classes in `transformers`: outputs, names of weights, and the way back."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import transformers

from mmjax.interop.formats import Format
from mmjax.interop.fusion.bert import BERT_FOR_PRETRAINING
from mmjax.interop.fusion.lxmert import LXMERT
from mmjax.interop.fusion.vilt import VILT
from mmjax.interop.fusion.visual_bert import VISUAL_BERT
from mmjax.interop.huggingface.files import CONFIG
from mmjax.proof.fusion import tensors
from mmjax.proof.fusion_classes import CLASSES, Batch, Outputs, texts_of
from tests.parity.fusion_models import Run, filled, round_trip
from tests.parity.reference import seeded
from tests.tolerances import LAYER, MODEL, above, relative_errors

BATCH, TEXT_LEN, NUM_REGIONS, NUM_PATCHES = 3, 9, 6, 6
SMALL = {
    "vocab_size": 101,
    "hidden_size": 36,
    "num_attention_heads": 3,
    "intermediate_size": 52,
    "max_position_embeddings": 19,
    "type_vocab_size": 3,
}


def vilt_outputs(model: Any, batch: Batch) -> Outputs:
    """The class puts patches in an order drawn by chance; with the draw held still it is their own."""
    pixels = batch["image"].permute(0, 3, 1, 2)
    in_order = pytest.MonkeyPatch()
    in_order.setattr(torch, "multinomial", lambda weights, count, **_: torch.arange(count))
    with in_order.context():
        found = model(**texts_of(batch), pixel_values=pixels)
    in_order.undo()
    text_len = batch["text_ids"].shape[1]
    return {
        "text": found.last_hidden_state[:, :text_len],
        "image": found.last_hidden_state[:, text_len:],
        "text_pooled": found.pooler_output,
    }


OUTPUTS = {**CLASSES, "ViltModel": vilt_outputs}


class Reference(NamedTuple):
    """One class: its sizes, and what of a batch it takes."""

    format: Format
    cls: Any
    config: Any
    small: dict[str, Any]
    inputs: Callable[[seeded.Batch, Any], dict[str, Any]]
    num_parameters: int


def types_of(batch: seeded.Batch) -> np.ndarray:
    """Two segments."""
    return (np.arange(batch.text_ids.shape[1]) >= 4).astype(np.int32) * batch.text_mask


def image_of(size: int) -> np.ndarray:
    """Normalised pixels."""
    return np.random.default_rng(0).normal(size=(BATCH, size, size, 3)).astype(np.float32)


def text_inputs(batch: seeded.Batch, config: Any) -> dict[str, Any]:
    return {"text_ids": batch.text_ids, "text_mask": batch.text_mask, "token_types": types_of(batch)}


def region_inputs(batch: seeded.Batch, config: Any) -> dict[str, Any]:
    regions = {
        "region_features": batch.features,
        "region_boxes": batch.boxes,
        "region_mask": batch.region_mask,
    }
    return {"text_ids": batch.text_ids, "text_mask": batch.text_mask, **regions}


def patch_inputs(batch: seeded.Batch, config: Any) -> dict[str, Any]:
    return {"text_ids": batch.text_ids, "text_mask": batch.text_mask, "image": image_of(config.image_size)}


REFERENCES = {
    "lxmert": Reference(
        LXMERT,
        transformers.LxmertForPreTraining,
        transformers.LxmertConfig,
        SMALL
        | {"l_layers": 3, "r_layers": 2, "x_layers": 2, "visual_feat_dim": 13}
        | {"num_object_labels": 17, "num_attr_labels": 11, "num_qa_labels": 7},
        region_inputs,
        228_051_752,
    ),
    "visual_bert": Reference(
        VISUAL_BERT,
        transformers.VisualBertForPreTraining,
        transformers.VisualBertConfig,
        SMALL | {"num_hidden_layers": 3, "visual_embedding_dim": 13, "layer_norm_eps": 1e-5},
        region_inputs,
        110_895_164,
    ),
    "vilt": Reference(
        VILT,
        transformers.ViltModel,
        transformers.ViltConfig,
        SMALL | {"num_hidden_layers": 3, "image_size": 15, "patch_size": 5, "layer_norm_eps": 1e-5},
        patch_inputs,
        111_595_008,
    ),
    "bert": Reference(
        BERT_FOR_PRETRAINING,
        transformers.BertForPreTraining,
        transformers.BertConfig,
        SMALL | {"num_hidden_layers": 3, "hidden_act": "gelu_new", "layer_norm_eps": 1e-5},
        text_inputs,
        110_106_428,
    ),
}


class Built:
    """Their class with seeded weights, of small odd shapes or of the published ones, and ours with the same."""

    def __init__(self, name: str, *, small: bool):
        self.reference = REFERENCES[name]
        self.config = self.reference.config(**(self.reference.small if small else {}))
        self.theirs = self.reference.cls(self.config).eval()
        with torch.no_grad():
            for key, parameter in self.theirs.named_parameters():
                parameter.copy_(torch.from_numpy(seeded.array(key, tuple(parameter.shape))))
        self.weights = {key: value.numpy() for key, value in self.theirs.state_dict().items()}
        self.model = self.reference.format.read({CONFIG: self.config.to_dict()}).model

    def errors(self, case: str) -> tuple[dict[str, float], float]:
        """Of every output relative to its norm, and the largest of all that is not padding."""
        batch = self._batch(case)
        inputs = self.reference.inputs(batch, self.config)
        with torch.no_grad():
            theirs = OUTPUTS[self.reference.cls.__name__](self.theirs, tensors(inputs))
        expected = {key: value.numpy() for key, value in theirs.items()}
        run = Run(self.model, filled(self.reference.format, self.model, self.weights))
        streams, outputs = run(inputs)
        found = {key: outputs[key] if key in outputs else getattr(streams, key) for key in expected}
        assert outputs.keys() <= expected.keys(), "every output of ours has one of theirs"
        largest = max(float(np.abs(found[key] - expected[key]).max()) for key in expected)
        return relative_errors(found, expected), largest

    def _batch(self, case: str) -> seeded.Batch:
        return seeded.inputs(
            batch_size=BATCH,
            text_len=TEXT_LEN,
            num_regions=NUM_REGIONS,
            vocab_size=self.config.vocab_size,
            feature_dim=getattr(self.config, "visual_feat_dim", getattr(self.config, "visual_embedding_dim", 1)),
            num_classes=2,
            padded=case == "padded",
        )


@pytest.mark.parametrize("case", ["full", "padded"])
@pytest.mark.parametrize("name", REFERENCES)
def test_small(name: str, case: str) -> None:
    errors, _ = Built(name, small=True).errors(case)
    assert above(errors, 2 * LAYER) == {}


@pytest.mark.long
@pytest.mark.parametrize("name", REFERENCES)
def test_base(name: str) -> None:
    built = Built(name, small=False)
    assert sum(parameter.numel() for parameter in built.theirs.parameters()) == built.reference.num_parameters
    for case in ("full", "padded"):
        errors, largest = built.errors(case)
        print(f"{name} {case}: largest difference {largest:.1e}")
        assert above(errors, MODEL) == {}
        assert largest < MODEL


@pytest.mark.parametrize("name", REFERENCES)
def test_there_and_back(name: str) -> None:
    """What comes back loads into the class as it is, but for second names of tied weights, bit for bit."""
    built = Built(name, small=True)
    returned = round_trip(built.reference.format, built.model, built.weights)
    fresh = built.reference.cls(built.config)
    missing, unexpected = fresh.load_state_dict(
        {key: torch.from_numpy(np.array(array)) for key, array in returned.items()}, strict=False
    )
    copies = {copy.theirs for copy in built.reference.format.copies}
    assert (set(missing) <= copies, unexpected) == (True, [])
    for key, array in fresh.state_dict().items():
        np.testing.assert_array_equal(array.numpy(), built.weights[key], err_msg=key)


@pytest.mark.parametrize("name", REFERENCES)
def test_configs_come_back(name: str) -> None:
    reference = REFERENCES[name]
    for sizes in ({}, reference.small):
        spec = reference.format.read({CONFIG: reference.config(**sizes).to_dict()})
        written = reference.config(**reference.format.write(spec)[CONFIG]).to_dict()
        assert reference.format.read({CONFIG: written}) == spec
