"""Streams of fusion models that start from folders of BERT and ViT compute what those compute."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import BertConfig, BertModel, ViTConfig, ViTImageProcessor, ViTModel

from mmjax.errors import UserError
from mmjax.interop.imports import InitConfig, initialised
from mmjax.models.fusion import published
from mmjax.models.fusion.model import Fusion, FusionConfig
from mmjax.models.fusion.published import Size, Vocabulary
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


@pytest.mark.parametrize(
    ("model", "init", "message"),
    [
        (replace(UNITER), {"source": "hf:{bert}"}, "init.source fills dual encoders"),
        (UNITER, {"image_source": "hf:{vit}"}, "fills patches and their layers, which this model has not"),
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
) -> None:
    places = {"bert": bert[1], "vit": vit[1]}
    with pytest.raises(UserError, match=message):
        started(model, InitConfig(**{name: source.format(**places) for name, source in init.items()}))
