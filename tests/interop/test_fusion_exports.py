"""What can express a fusion model and what cannot, and that what is written is the model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file, save_file

from mmjax import prove
from mmjax.data import records
from mmjax.data.config import DataConfig
from mmjax.data.regions import RegionsConfig
from mmjax.errors import UserError
from mmjax.interop.export_folder import chosen
from mmjax.interop.formats import Spec, as_function
from mmjax.interop.fusion.exports import FORMATS, REMEDY, prove_through_module, read_back
from mmjax.interop.sampling import spread
from mmjax.models.fusion import trunks
from mmjax.models.fusion.heads import HeadsConfig
from mmjax.nn.bimodal import Group, TrunkConfig
from tests.interop.fusion_exports import CLASSES, PUBLISHED, trained, write_export
from tests.serving.fusion_cases import MODELS, SIZE

ALL = MODELS | PUBLISHED


@pytest.mark.parametrize("name", ALL)
def test_a_class_expresses_its_own_kind_and_refuses_all_others(name: str) -> None:
    """By a message, whatever the model: layers, heads and images that the class has no words for."""
    spec = Spec(ALL[name], None)
    for to, formats in FORMATS.items():
        for format in formats:
            expresses = to == "mmjax" or (name in PUBLISHED and CLASSES[name] == (to, format.name))
            if expresses:
                assert format.differences(spec) == {}
            else:
                with pytest.raises(UserError, match=rf"^{format.name} cannot express .*: export it with --to mmjax"):
                    chosen([format], spec, REMEDY)


@pytest.mark.parametrize(
    ("to", "name", "changes", "message"),
    [
        (
            "huggingface",
            "vilt",
            {"heads": HeadsConfig()},
            r"ViltModel cannot express heads.tokens = True \(only False\)",
        ),
        ("huggingface", "bert", {"embed_dim": 6}, r"BertForPreTraining cannot express embed_dim = 6 \(only 0\)"),
        (
            "huggingface",
            "visual_bert",
            {"fusion": TrunkConfig(SIZE.block, SIZE.block, (*trunks.single_stream(2), Group((trunks.EACH_ITS_OWN,))))},
            r"VisualBertForPreTraining cannot express fusion.layers = '2 x \(text sees both and image sees both, "
            r"shared\); 1 x \(text sees text and image sees image\)' \(only '2 x",
        ),
        ("reference", "albef", {"image_tower_norm": False}, r"ALBEF cannot express image_tower_norm = False"),
        ("reference", "albef", {"embed_pool": "mean"}, r"ALBEF cannot express embed_pool = 'mean'"),
        ("huggingface", "albef", {}, "ViltModel cannot express .* and [0-9]+ more: "),
        ("reference", "bert", {}, "cannot express image = 'none'"),
    ],
)
def test_the_nearest_class_is_named_with_what_it_lacks(to: str, name: str, changes: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        chosen(FORMATS[to], Spec(replace(PUBLISHED[name], **changes), None), REMEDY)


def test_the_same_layers_are_the_same_model_however_they_are_held() -> None:
    model = PUBLISHED["vilbert"]
    apart = tuple(Group((layer,)) for group in model.fusion.groups for layer in group.layers * group.repeat)
    function = as_function(Spec(model, None))
    assert as_function(Spec(replace(model, fusion=replace(model.fusion, groups=apart)), None)) == function
    assert as_function(Spec(replace(model, pair_dropout_rate=0.0, log_scale=1.0), None)) == function
    # Nothing reads what would be pooled for a space that it does not have.
    assert as_function(Spec(replace(model, embed_pool="mean"), None)) == function
    assert as_function(Spec(replace(model, embed_pool="mean", embed_dim=8), None)) != as_function(
        Spec(replace(model, embed_dim=8), None)
    )
    for change in ({"inner_width": 48}, {"num_heads": 2}, {"image_mlp": False}):
        other = (replace(apart[0], layers=(replace(apart[0].layers[0], **change),)), *apart[1:])
        assert as_function(Spec(replace(model, fusion=replace(model.fusion, groups=other)), None)) != function


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_written_is_proven(name: str, tmp_path: Path) -> None:
    to, cls = CLASSES[name]
    source, out = trained(PUBLISHED[name], tmp_path), tmp_path / "out"
    exported = write_export(out, source, to)
    if to == "reference":
        assert prove_through_module(out, exported).startswith("proven: largest differences: text ")
        with pytest.raises(UserError, match="python -m mmjax.export --to reference proves them as it writes them"):
            prove.prove(out)
    else:
        prove.prove(out)
        _, loading = getattr(transformers, cls).from_pretrained(out, output_loading_info=True)
        assert not any(loading.values()), loading
    assert json.loads((out / "mmjax.json").read_text())["class"] == cls
    found = json.loads((out / prove.PARITY).read_text())
    assert found["failures"] == []
    assert found.get("not_compared", []) == (["image"] if name == "vilt" else [])
    heads = PUBLISHED[name].heads
    regions = {output for head in heads.regions for output, _ in head.outputs}
    assert found["outputs"].keys() >= regions | {"text"} | ({"token_logits"} if heads.tokens else set())


class Regions(list):
    """Records of regions alone, of which one is broken."""

    def __getitem__(self, index):
        if index == 1:
            raise records.BadRecord("it is broken")
        return super().__getitem__(index)


def test_a_sample_of_regions_has_them_in_the_place_of_pixels(tmp_path: Path) -> None:
    source = trained(PUBLISHED["uniter"], tmp_path)
    config = RegionsConfig(num_regions=4, feature_dim=3)
    one = records.Regions(np.ones((2, 3), np.float32), np.zeros((2, 4), np.float32))
    texts = ("a cat", "a dog", "two dogs", "a cat")
    data = Regions(records.Record(None, (text,), None, text, one) for text in texts)
    found = spread(DataConfig(text_len=11, regions=config), data, source.tokenizer, 8)
    assert found.texts == ("a cat", "two dogs")
    assert {name: array.shape for name, array in found.inputs.items()} == {
        "region_features": (2, 4, 3),
        "region_boxes": (2, 4, 4),
        "region_mask": (2, 4),
        "text_ids": (2, 11),
        "text_mask": (2, 11),
    }
    assert found.inputs["region_mask"].sum() == 4


@pytest.mark.parametrize("name", ["unlike any", "grid", "concat"])
def test_any_model_is_written_for_our_module_and_proven(name: str, tmp_path: Path) -> None:
    source = trained(MODELS[name], tmp_path)
    write_export(tmp_path / "out", source, "mmjax", "bfloat16")
    assert prove.prove(tmp_path / "out").startswith("proven: largest differences: text ")


@pytest.mark.parametrize(("to", "dtype"), [("mmjax", "float16"), ("reference", "bfloat16")])
def test_a_rounded_temperature_is_the_one_that_is_exported(to: str, dtype: str, tmp_path: Path) -> None:
    exported = write_export(tmp_path / "out", trained(PUBLISHED["albef"], tmp_path), to, dtype)
    (prove_through_module if to == "reference" else lambda folder, _: prove.prove(folder))(tmp_path / "out", exported)
    written = {str(array.dtype) for array in load_file(tmp_path / "out" / "model.safetensors").values()}
    # What the authors' class carries beside weights counts in whole numbers.
    assert written == {dtype} | ({"int64"} if to == "reference" else set())


@pytest.mark.parametrize(
    ("name", "to"), [("visual_bert", "huggingface"), ("visual_bert", "mmjax"), ("uniter", "reference")]
)
def test_another_weight_is_found(name: str, to: str, tmp_path: Path) -> None:
    source, out = trained(PUBLISHED[name], tmp_path), tmp_path / "out"
    write_export(out, source, to)
    weights = load_file(out / "model.safetensors")
    key = next(key for key in weights if key.endswith("mlp_norm.bias" if to == "mmjax" else "output.LayerNorm.bias"))
    weights[key] = weights[key] + np.float32(1e-2)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(prove.Unequal, match="comes back from the export as another one"):
        read_back(out, source, to, "float32")
    if to != "reference":
        with pytest.raises(prove.Unequal, match=r"text differ by .*pair logits differ by"):
            prove.prove(out)
