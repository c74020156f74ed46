"""Fusion models that start from folders: streams compute what BERT, ViT and ResNet do, whole models are taken whole."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertModel,
    LxmertConfig,
    LxmertForPreTraining,
    PreTrainedModel,
    ResNetConfig,
    ResNetModel,
    ViltConfig,
    ViltModel,
    VisualBertConfig,
    VisualBertForPreTraining,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from mmjax.errors import UserError
from mmjax.interop.fusion.folder import read_fusion_folder
from mmjax.interop.imports import InitConfig, initialised
from mmjax.models.fusion import published
from mmjax.models.fusion.heads import HeadsConfig
from mmjax.models.fusion.model import Fusion, FusionConfig
from mmjax.models.fusion.patches import GridInputConfig
from mmjax.models.fusion.published import Size, Vocabulary
from mmjax.models.resnet import ResNetConfig as OurResNetConfig
from mmjax.nn import positions
from mmjax.optim import paths
from mmjax.types import Params
from tests.tolerances import LAYER, above, relative_errors

STILL = {"dropout_rate": 0.0, "attention_dropout_rate": 0.0}
SIZE = Size(width=24, depth=3, num_heads=3, mlp_dim=40, **STILL)
WORDS = Vocabulary(vocab_size=101, context_len=8, num_token_types=1)
UNITER = published.uniter(SIZE, WORDS, feature_dim=5, num_classes=4)
ALBEF = published.albef(
    SIZE,
    replace(SIZE, depth=2, norm_eps=1e-6),
    WORDS,
    fusion_depth=2,
    image_side=12,
    patch_size=4,
    embed_dim=8,
)
TOWER = OurResNetConfig(image_size=32, embedding_dim=4, stage_dims=(8, 12), depths=(1, 2), layer="basic")
UNITER_OF_GRID = replace(UNITER, image=GridInputConfig(width=24, tower=TOWER), heads=HeadsConfig())


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> tuple[BertModel, Path]:
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 40}
    model = BertModel(BertConfig(vocab_size=101, max_position_embeddings=12, **sizes)).eval()
    folder = tmp_path_factory.mktemp("bert")
    model.save_pretrained(folder)
    return model, folder


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> tuple[ViTModel, Path]:
    torch.manual_seed(1)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
    model = ViTModel(ViTConfig(image_size=12, patch_size=4, layer_norm_eps=1e-6, **sizes)).eval()
    folder = tmp_path_factory.mktemp("vit")
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 12, "width": 12}).save_pretrained(folder)
    return model, folder


def started(model: FusionConfig, init: InitConfig) -> tuple[Fusion, list[str]]:
    said: list[str] = []
    graph, state = nnx.split(model.build(jax.random.key(0)))
    params: Params = initialised(nnx.to_pure_dict(state), init, model, said.append)
    return nnx.merge(graph, params), said


def texts() -> tuple[np.ndarray, np.ndarray]:
    ids = np.random.default_rng(0).integers(1, 101, (3, 8)).astype(np.int32)
    return ids, np.arange(8) < np.asarray([8, 5, 3])[:, None]


def hidden_states(model: BertModel) -> tuple[torch.Tensor, ...]:
    ids, mask = map(torch.from_numpy, texts())
    with torch.no_grad():
        return model(ids.long(), attention_mask=mask.long(), output_hidden_states=True).hidden_states


def test_a_single_stream_that_sees_no_image_is_that_bert(bert: tuple[BertModel, Path]) -> None:
    """Its three layers are the first of four."""
    theirs, folder = bert
    fusion, said = started(UNITER, InitConfig(text_source=f"hf:{folder}"))
    ids, mask = texts()
    nothing = {
        "region_features": np.zeros((3, 2, 5), np.float32),
        "region_boxes": np.zeros((3, 2, 4), np.float32),
        "region_mask": np.zeros((3, 2), bool),
    }
    (text, _), _ = fusion({"text_ids": ids, "text_mask": mask, **nothing})
    assert above(relative_errors([text], [hidden_states(theirs)[3].numpy()]), LAYER) == {}
    assert said == [f"hf:{folder} (BertModel): 21 parameters of the text stream taken"]


def test_albef_starts_from_both(bert: tuple[BertModel, Path], vit: tuple[ViTModel, Path]) -> None:
    (their_text, text_folder), (their_image, image_folder) = bert, vit
    fusion, said = started(ALBEF, InitConfig(text_source=f"hf:{text_folder}", image_source=f"hf:{image_folder}"))
    text = fusion.encode_text(*map(jnp.asarray, texts()))
    assert above(relative_errors([text.tokens], [hidden_states(their_text)[1].numpy()]), LAYER) == {}
    pixels = np.random.default_rng(1).normal(size=(2, 12, 12, 3)).astype(np.float32)
    with torch.no_grad():
        expected = their_image(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).last_hidden_state.numpy()
    found = fusion.encode_image({"image": jnp.asarray(pixels)}).tokens
    assert above(relative_errors([found], [expected]), LAYER) == {}
    own, cross = fusion.fusion.groups[0].layers
    for layer in (0, 1):
        theirs = their_text.encoder.layer[1 + layer]
        query, up = theirs.attention.self.query.weight, theirs.intermediate.dense.weight
        np.testing.assert_array_equal(
            np.asarray(own.text.attention.query.kernel[...])[layer].reshape(24, 24).T, query.detach().numpy()
        )
        np.testing.assert_array_equal(np.asarray(cross.text.mlp.up.kernel[...])[layer].T, up.detach().numpy())
    assert len(said) == 2


@pytest.mark.parametrize("class_token", [True, False])
def test_positions_are_resized_to_the_image(class_token: bool, vit: tuple[ViTModel, Path]) -> None:
    """Of a larger image, whose layer norms add 1e-12 to the variance where the folder's add 1e-6."""
    theirs, folder = vit
    image = replace(SIZE, depth=2)
    model = published.albef(SIZE, image, WORDS, fusion_depth=2, image_side=20, patch_size=4, embed_dim=8)
    model = replace(model, image=replace(model.image, class_token=class_token))
    fusion, _ = started(model, InitConfig(image_source=f"hf:{folder}"))
    table = theirs.embeddings.position_embeddings[0].detach().numpy()
    found = np.asarray(fusion.image.positions[...])
    assert found.shape == (class_token + 25, 24)
    if class_token:
        np.testing.assert_array_equal(found[0], table[0])
    np.testing.assert_array_equal(found[-25:], positions.resize(table[1:], (3, 3), (5, 5)))


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[ResNetModel, Path]:
    torch.manual_seed(2)
    sizes = {"embedding_size": 4, "hidden_sizes": [8, 12], "depths": [1, 2], "layer_type": "basic"}
    model = ResNetModel(ResNetConfig(**sizes)).eval()
    folder = tmp_path_factory.mktemp("resnet")
    model.save_pretrained(folder)
    return model, folder


def test_a_grid_starts_from_a_resnet(resnet: tuple[ResNetModel, Path]) -> None:
    theirs, folder = resnet
    fusion, said = started(UNITER_OF_GRID, InitConfig(image_source=f"hf:{folder}"))
    pixels = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).last_hidden_state.numpy()
    _, extras = fusion.image.tower(jnp.asarray(pixels))
    expected = expected.reshape(2, 12, -1).transpose(0, 2, 1)
    assert above(relative_errors([extras["tokens"]], [expected]), LAYER) == {}
    assert "(ResNetModel): 45 parameters of the image stream taken" in said[0]


def test_lxmert_starts_its_language_layers(bert: tuple[BertModel, Path]) -> None:
    """Five layers see their own text in all, but BERT has four; as its authors have it, the language layers start."""
    theirs, folder = bert
    model = published.lxmert(SIZE, WORDS, vision_depth=1, cross_depth=2, feature_dim=5)
    fusion, _ = started(model, InitConfig(text_source=f"hf:{folder}"))
    text = fusion.encode_text(*map(jnp.asarray, texts()))
    assert above(relative_errors([text.tokens], [hidden_states(theirs)[3].numpy()]), LAYER) == {}


SIZES = {"vocab_size": 101, "hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40}
LAYERS = {"num_hidden_layers": 2, "max_position_embeddings": 12}
WHOLE: dict[str, tuple[type[PreTrainedModel], Any]] = {
    "bert": (BertForPreTraining, BertConfig(**SIZES, **LAYERS)),
    "lxmert": (
        LxmertForPreTraining,
        LxmertConfig(**SIZES, l_layers=2, x_layers=1, r_layers=1, visual_feat_dim=5, max_position_embeddings=12),
    ),
    "visual_bert": (VisualBertForPreTraining, VisualBertConfig(**SIZES, **LAYERS, visual_embedding_dim=5)),
    "vilt": (ViltModel, ViltConfig(**SIZES, **LAYERS, image_size=12, patch_size=4)),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_model_is_taken_whole(name: str, tmp_path: Path) -> None:
    """With a shorter text and another head than it has, too."""
    kind, config = WHOLE[name]
    torch.manual_seed(3)
    theirs = kind(config).eval()
    theirs.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 12, "width": 12}).save_pretrained(tmp_path)
    format, files = read_fusion_folder(tmp_path)
    model = format.read(files).model
    fusion, said = started(model, InitConfig(source=f"hf:{tmp_path}"))
    assert said[0].endswith("born anew: nothing")
    tensors = {key: value.numpy() for key, value in theirs.state_dict().items()}
    expected = dict(format.parameters(model, tensors))
    found = paths.leaves(nnx.to_pure_dict(nnx.state(fusion)))
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[path], array) for path, array in expected.items())
    other = replace(model, heads=replace(model.heads, num_answers=7), text=replace(model.text, context_len=6))
    fusion, said = started(other, InitConfig(source=f"hf:{tmp_path}"))
    np.testing.assert_array_equal(fusion.text.positions[...], expected["text/positions"][:6])
    assert fusion.answer_head.out.bias.shape == (7,)
    assert "answer_head/out/bias" in said[0].partition("born anew: ")[2]


def test_a_stream_wins_over_the_whole_model_and_heads_can_be_left(bert: tuple[BertModel, Path], tmp_path: Path) -> None:
    stream, text_folder = bert
    sizes = SIZES | LAYERS | {"max_position_embeddings": 8, "num_hidden_layers": 3}
    torch.manual_seed(4)
    theirs = BertForPreTraining(BertConfig(**sizes, type_vocab_size=1))
    theirs.save_pretrained(tmp_path)
    model = published.bert(SIZE, WORDS)
    sources = {"source": f"hf:{tmp_path}", "text_source": f"hf:{text_folder}"}
    fusion, said = started(model, InitConfig(**sources, backbone_only=True))
    table = stream.embeddings.word_embeddings.weight.detach().numpy()
    np.testing.assert_array_equal(np.asarray(fusion.text.tokens.table[...])[:101], table)
    born = said[0].partition("born anew: ")[2].split(", ")
    assert {path.split("/")[0] for path in born} == {"pooler", "token_head", "pair_head"}
    fusion, _ = started(model, InitConfig(source=f"hf:{tmp_path}"))
    pair = theirs.cls.seq_relationship.weight.detach().numpy()
    np.testing.assert_array_equal(np.asarray(fusion.pair_head.kernel[...]).T, pair)


@pytest.mark.parametrize(
    ("model", "init", "message"),
    [
        (UNITER, {"source": "hf:{bert}"}, "init.source is not of this config: it needs "),
        (UNITER, {"source": "hf:{vit}"}, "holds a model of type 'vit': "),
        (UNITER, {"source": "hf:nowhere"}, "nowhere does not exist: give an existing folder or file as hf:PATH"),
        (UNITER, {"source": "big_vision:{vit}"}, r"is no checkpoint: use one of hf \(written as hf:DIR\)"),
        (UNITER, {"image_source": "hf:{vit}"}, "fills patches or a grid, which this model has not"),
        (UNITER_OF_GRID, {"image_source": "hf:{vit}"}, "holds a ViTConfig: name a ResNetModel for a grid"),
        (
            replace(UNITER_OF_GRID, image=GridInputConfig(width=24, tower=replace(TOWER, embedding_dim=6))),
            {"image_source": "hf:{resnet}"},
            r"does not fit model.image.tower: embedding_dim = 6 \(4 there\): make them equal",
        ),
        (ALBEF, {"image_source": "hf:{resnet}"}, "holds a ResNetConfig: name a BertModel for text, a ViTModel for"),
        (
            replace(ALBEF, image=replace(ALBEF.image, patch_size=2)),
            {"image_source": "hf:{vit}"},
            r"patch_size = 2 \(4 there\)",
        ),
        (
            published.uniter(replace(SIZE, norm_eps=1e-3), WORDS, feature_dim=5, num_classes=4),
            {"text_source": "hf:{bert}"},
            r"norm_eps = 0.001 \(1e-12 there\)",
        ),
        (ALBEF, {"text_source": "hf:{vit}"}, "init.text_source holds a ViTConfig: name a BertModel for text"),
        (
            published.uniter(replace(SIZE, mlp_dim=41), WORDS, feature_dim=5, num_classes=4),
            {"text_source": "hf:{bert}"},
            r"mlp_dim = 41 \(40 there\)",
        ),
        (
            published.uniter(replace(SIZE, depth=5), WORDS, feature_dim=5, num_classes=4),
            {"text_source": "hf:{bert}"},
            "has fewer layers than the model",
        ),
        (
            published.uniter(SIZE, replace(WORDS, context_len=13), feature_dim=5, num_classes=4),
            {"text_source": "hf:{bert}"},
            "text/positions has 13 rows, but the checkpoint only 12",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    model: FusionConfig,
    init: dict[str, Any],
    message: str,
    bert: tuple[BertModel, Path],
    vit: tuple[ViTModel, Path],
    resnet: tuple[ResNetModel, Path],
) -> None:
    places = {"bert": bert[1], "vit": vit[1], "resnet": resnet[1]}
    with pytest.raises(UserError, match=message):
        started(model, InitConfig(**{name: source.format(**places) for name, source in init.items()}))
