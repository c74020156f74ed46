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


FUSION = {"kind": "fusion", "format": "mmjax", "class": "MmjaxFusion"}
RERANKED = {"image_to_text": {"r@1": 0.625}, "text_to_image": {"r@1": 0.375}, "match_accuracy": 0.875}


def fusion_facts(image: dict[str, Any] | None, evaluation: dict[str, Any], **changes: Any) -> dict[str, Any]:
    regions = [{"outputs": [["classes", 7]], "tied": False}]
    heads = {"tokens": True, "num_pair_classes": 2, "num_answers": 0, "regions": regions if image else []}
    model = {"image": image, "heads": heads, "pooler": {"streams": ["text"]}}
    common = facts(**{**FUSION, **changes}, evaluation={"test": evaluation})
    return {**common, "experiment": {**common["experiment"], "model": model}}


def test_a_fusion_model_says_what_the_fusion_adds_to_its_towers():
    masked = {"with_image": 0.2, "other_image": 0.1}
    card = model_card(
        fusion_facts({"patch_size": 8}, {"retrieval": RETRIEVAL, "reranked": RERANKED, "masked_words": masked})
    )
    assert "| test | 50.0% | 62.5% | 25.0% | 37.5% | 87.5% | 20.0% | 10.0% | 8 |" in card
    assert "# text_pooled, token_logits, pair_logits, classes\n" in card
    assert "answers `/v1/match` and `/v1/fill_mask`" in card
    assert "scaled to 24 x 32 pixels (bicubic)" in card
    assert "| test | 50.0% | - | 25.0% | - | - | - | - | 8 |" in model_card(
        fusion_facts(None, {"retrieval": RETRIEVAL})
    )
    chosen = {"choice": {**RERANKED, "num_candidates": 16}}
    assert "| test, chosen | 62.5% | - | 37.5% | - | 87.5% | - | - | 16 |" in model_card(
        fusion_facts({"feature_dim": 5}, chosen)
    )


@pytest.mark.parametrize(
    ("image", "changes", "line"),
    [
        ({"feature_dim": 5}, {}, '"region_mask": boxes[..., 0] >= 0}'),
        ({"feature_dim": 5}, {"format": "huggingface", "class": "LxmertForPreTraining"}, "visual_pos=boxes)"),
        ({"patch_size": 8}, {"format": "huggingface", "class": "ViltModel"}, "model(**texts, **pixels)"),
        (None, {"format": "huggingface", "class": "BertForPreTraining"}, "outputs = model(**texts)"),
        (
            {"patch_size": 8},
            {"format": "reference", "class": "ALBEF"},
            "names of ALBEF in the code of salesforce/ALBEF",
        ),
    ],
)
def test_every_format_of_a_fusion_model_has_its_lines(image, changes, line):
    card = model_card(fusion_facts(image, {}, **changes))
    assert line in card
    assert ("torch.zeros(1, 36, 5)" in card) == ("feature_dim" in (image or {}))
    assert ("AutoImageProcessor" in card) == ("patch_size" in (image or {}) and changes.get("format") != "reference")
    assert ("Anyone can prove it again" in card) == (changes.get("format") != "reference")
