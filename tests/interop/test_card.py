"""The model card says how this export, and not another, is loaded."""

from typing import Any

import pytest

from mmjax.interop.card import model_card

PREPROCESS = {"image_size": 24, "image_width": 32, "resize": "squash", "interpolation": "bicubic"}
RETRIEVAL = {
    "image_to_text": {"r@1": 0.5, "r@5": 0.75},
    "text_to_image": {"r@1": 0.25, "r@5": 1.0},
    "num_candidates": 8,
}


def facts(**changes: Any) -> dict[str, Any]:
    data = {"source": "emoji", "split": "train", "text_len": 16, "preprocess": PREPROCESS}
    return {
        "mmjax_version": "1.2",
        "format": "huggingface",
        "class": "SiglipModel",
        "part": "both",
        "step": 7,
        "ema": True,
        "dtype": "float32",
        "fingerprint": {"tokenizer": "abc"},
        "data_licence": "CC0",
        "evaluation": {"test": {"retrieval": RETRIEVAL}},
        "experiment": {"data": data},
        **changes,
    }


def test_it_says_what_was_trained_and_what_it_reached():
    card = model_card(facts())
    assert "for 7 steps on emoji (split train), averaged parameters. Weights are float32." in card
    assert "| test | 50.0% | 75.0% | 25.0% | 100.0% | 8 |" in card
    assert "scaled to 24 x 32 pixels (bicubic)" in card
    assert "Texts are padded to 16 tokens" in card
    assert "CC0" in card
    assert "- tokenizer: `abc`" in card
    assert "trust_remote_code" not in card


def test_own_code_is_trusted_on_purpose():
    """For the tokenizer too, which reads the model's config."""
    card = model_card(facts(**{"class": "MMJaxDualEncoder"}))
    for name in ("AutoModel", "AutoTokenizer"):
        assert f'{name}.from_pretrained("DIR", trust_remote_code=True)' in card


@pytest.mark.parametrize(
    ("changes", "features"),
    [
        ({"part": "image", "class": "ViTModel", "pool": None, "pooler": True}, "output.pooler_output"),
        ({"part": "image", "class": "ViTModel", "pool": "cls", "pooler": False}, "output.last_hidden_state[:, 0]"),
        ({"part": "text", "class": "BertModel", "pool": "mean", "pooler": False}, "averaged over the real tokens"),
    ],
)
def test_one_tower_has_no_logits_and_says_where_its_features_are(changes, features):
    card = model_card(facts(**changes))
    assert f"# features: {features}" in card or f"# features: output.last_hidden_state {features}" in card
    assert "logits_per_image" not in card
    assert ("add_pooling_layer=False" in card) == (not changes["pooler"])
    assert ("Texts are padded" in card) == (changes["part"] == "text")
    assert ("pixels (bicubic)" in card) == (changes["part"] == "image")


@pytest.mark.parametrize("kind", ["open_clip", "onnx", "torch_export"])
def test_every_format_has_its_lines(kind):
    assert {"open_clip": "open_clip", "onnx": "onnxruntime", "torch_export": "torch.export.load"}[kind] in model_card(
        facts(format=kind)
    )
