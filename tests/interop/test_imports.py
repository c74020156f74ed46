"""What a run starts from: a foreign model, a tower, a backbone; in its shardings, and refused where it differs."""

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh

from mmjax.errors import UserError
from mmjax.interop.imports import InitConfig, initialised, opened, parameters
from mmjax.models.dual_encoder import DualEncoder, DualEncoderConfig
from mmjax.nn import positions
from mmjax.optim import paths
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.training.state import init_params, model_spec
from tests.interop import torch_models


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    makers = {
        "clip": torch_models.clip,
        "siglip": torch_models.siglip,
        "vit": torch_models.vit,
        "bert": torch_models.bert,
        "masked_bert": torch_models.masked_bert,
    }
    root = tmp_path_factory.mktemp("theirs")
    return {name: torch_models.saved(torch_models.randomised(make()), root / name) for name, make in makers.items()}


def config_of(folder: Path) -> Any:
    with opened(f"hf:{folder}") as foreign:
        return foreign.spec.model


def arrays_of(folder: Path) -> dict[str, np.ndarray]:
    with opened(f"hf:{folder}") as foreign:
        return dict(parameters(foreign))


def started(model: DualEncoderConfig, init: InitConfig) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Parameters as they are born and as they start, by path, and what was said."""
    said: list[str] = []
    with jax.set_mesh(mesh()):
        params = born(model)
        found = initialised(params, init, model, said.append)
    return paths.leaves(params), paths.leaves(found), said


@functools.cache
def mesh() -> Mesh:
    return make_mesh(MeshConfig(2, 2, 1), jax.devices()[:4])


@functools.cache
def born(model: DualEncoderConfig) -> Any:
    """The parameters that chance gives; of equal configs they are computed once."""

    def build(key: Any) -> DualEncoder:
        return DualEncoder(model, key)

    spec = model_spec(build, mesh())
    return jax.jit(lambda: init_params(build, spec.params_spec, jax.random.key(0)))()


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_a_whole_model_is_taken_in_the_shardings_of_the_run(name, folders):
    before, found, said = started(config_of(folders[name]), InitConfig(source=f"hf:{folders[name]}"))
    expected = arrays_of(folders[name])
    assert set(found) == set(expected)
    assert all(np.array_equal(found[path], expected[path]) for path in expected)
    assert all(found[path].sharding == before[path].sharding for path in before)
    assert f"{len(expected)} parameters taken; left out: nothing" in said[0]


def joined(folders: dict[str, Path], **changes: Any) -> DualEncoderConfig:
    """A dual encoder of the ViT and the BERT."""
    image, text = config_of(folders["vit"]), config_of(folders["bert"])
    model = DualEncoderConfig(image, text, 16, "linear", "linear")
    return replace(model, **changes)


def test_towers_of_their_own_are_joined(folders):
    init = InitConfig(image_source=f"hf:{folders['vit']}", text_source=f"hf:{folders['bert']}")
    before, found, _ = started(joined(folders), init)
    expected = {**arrays_of(folders["vit"]), **arrays_of(folders["bert"])}
    for path in found:
        assert np.array_equal(found[path], expected.get(path, before[path])), path
    assert {path for path in found if path not in expected} == {
        "image_projection/kernel",
        "text_projection/kernel",
        "log_scale",
        "logit_bias",
    }


def test_one_tower_of_a_whole_model(folders):
    model = replace(config_of(folders["siglip"]), text_projection="linear")
    before, found, _ = started(model, InitConfig(text_source=f"hf:{folders['siglip']}"))
    expected = arrays_of(folders["siglip"])
    for path in found:
        theirs = path.startswith("text/")
        assert np.array_equal(found[path], expected[path] if theirs else before[path]), path


def test_a_backbone_leaves_heads_as_they_were_born(folders):
    theirs = config_of(folders["siglip"])
    model = replace(theirs, image=replace(theirs.image, pool="mean"), embed_dim=8, image_projection="linear")
    before, found, said = started(model, InitConfig(source=f"hf:{folders['siglip']}", backbone_only=True))
    expected = arrays_of(folders["siglip"])
    for path in found:
        head = path in ("log_scale", "logit_bias") or path.startswith(("image_projection/", "text_projection/"))
        assert np.array_equal(found[path], before[path] if head else expected[path]), path
    assert "left out: image/pool/" in said[0]


def test_a_head_of_pretraining_is_left_out_and_said(folders):
    text = replace(config_of(folders["bert"]), pooler=False)
    _, found, said = started(joined(folders, text=text), InitConfig(text_source=f"hf:{folders['masked_bert']}"))
    assert np.array_equal(found["text/positions"], arrays_of(folders["masked_bert"])["text/positions"])
    assert "cls.predictions" in said[0]


def test_positions_are_resized_and_texts_cut(folders):
    image = replace(config_of(folders["vit"]), image_size=32, image_width=32)
    text = replace(config_of(folders["bert"]), context_len=5)
    init = InitConfig(image_source=f"hf:{folders['vit']}", text_source=f"hf:{folders['bert']}")
    _, found, _ = started(joined(folders, image=image, text=text), init)
    vit, bert = arrays_of(folders["vit"]), arrays_of(folders["bert"])
    resized = positions.resize(vit["image/positions"], (2, 3), (4, 4), num_prefix=1)
    assert np.array_equal(found["image/positions"], resized)
    assert np.array_equal(found["text/positions"], bert["text/positions"][:5])


def test_a_backbone_without_class_token_has_the_positions_of_its_patches(folders):
    image = replace(config_of(folders["vit"]), pool="mean", pooler=False)
    model = joined(folders, image=image)
    _, found, _ = started(model, InitConfig(image_source=f"hf:{folders['vit']}", backbone_only=True))
    assert np.array_equal(found["image/positions"], arrays_of(folders["vit"])["image/positions"][1:])


@pytest.mark.parametrize(
    ("init", "changes", "message"),
    [
        ({"image_source": "hf:{vit}"}, {"image": {"num_heads": 4}}, r"needs model.image.num_heads=3"),
        ({"image_source": "hf:{vit}"}, {"image": {"activation": "relu"}}, r"needs model.image.activation='gelu'"),
        ({"text_source": "hf:{bert}"}, {"text": {"context_len": 20}}, r"text/positions of the checkpoint has shape"),
        ({"text_source": "hf:{vit}"}, {}, r"init.text_source = .* is a ViTModel.*: name it as init.image_source"),
        ({"source": "hf:{bert}"}, {}, r"init.source = .* is a BertModel.*: name it as init.text_source"),
        ({"source": "hf:{nowhere}"}, {}, r"nowhere does not exist"),
        ({"source": "fh:{vit}"}, {}, r"is no checkpoint: use one of hf"),
        ({"text_source": "hf:{masked_bert}"}, {}, r"BertModel\) has no text/pooler/bias: set init.backbone_only"),
    ],
)
def test_what_does_not_fit_is_refused(init, changes, message, folders):
    names = {**folders, "nowhere": "nowhere"}
    given = InitConfig(**{key: value.format(**names) for key, value in init.items()})
    model = joined(folders)
    towers = {part: replace(getattr(model, part), **fields) for part, fields in changes.items()}
    refused = replace(model, **towers)
    shapes = jax.eval_shape(lambda: nnx.to_pure_dict(nnx.split(DualEncoder(refused, jax.random.key(0)))[1]))
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    placed = jax.tree.map(lambda shape: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=one), shapes)
    with pytest.raises(UserError, match=message):
        initialised(placed, given, refused, print)


def test_a_folder_of_another_class_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "berd"}')
    with pytest.raises(UserError, match="of type 'berd': did you mean bert"), opened(f"hf:{tmp_path}"):
        pass
