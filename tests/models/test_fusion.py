"""Fusion models: sizes, every mesh and way to run them, the concatenation's formula, ALBEF of its parts."""

import functools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from jax.sharding import NamedSharding
from transformers import BertConfig, ViTConfig, ViTModel
from transformers.models.bert.modeling_bert import BertEmbeddings, BertLayer, BertOnlyMLMHead

from mmjax.errors import UserError
from mmjax.interop.formats import Spec
from mmjax.interop.fusion.albef import ALBEF as ALBEF_FORMAT
from mmjax.interop.shapes import parameter_shapes
from mmjax.models.fusion import published, trunks
from mmjax.models.fusion.concat import ConcatConfig
from mmjax.models.fusion.heads import HeadsConfig
from mmjax.models.fusion.model import Fusion, FusionConfig, Tokens
from mmjax.models.fusion.patches import GridInputConfig, PatchInputConfig
from mmjax.models.fusion.published import Size, Vocabulary
from mmjax.models.resnet import ResNetConfig
from mmjax.nn.bimodal import Group, Layer, TrunkConfig
from mmjax.nn.parameter import BERT_INIT, num_parameters
from mmjax.nn.stack import ALL
from mmjax.parallel import rules
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.training.state import model_spec
from tests.nn.formulas import attended, normed
from tests.parity.fusion_models import Run
from tests.parity.reference import seeded
from tests.tolerances import BFLOAT16, LAYER, MODEL, above, relative_errors

STILL = {"dropout_rate": 0.0, "attention_dropout_rate": 0.0}
SIZE = Size(width=32, depth=2, num_heads=4, mlp_dim=48, **STILL)
WORDS = Vocabulary(vocab_size=100, context_len=12, num_token_types=2)
REGIONS = {"feature_dim": 16, "num_classes": 8}
ALBEF = published.albef(
    SIZE, replace(SIZE, norm_eps=1e-6), WORDS, fusion_depth=1, image_side=8, patch_size=4, embed_dim=16
)
MODELS: dict[str, FusionConfig] = {
    "vilbert": published.vilbert(
        replace(SIZE, depth=3),
        replace(SIZE, width=16, num_heads=2),
        WORDS,
        text_before=(1, 2),
        image_before=(0, 1),
        inner_width=32,
        inner_heads=4,
        **REGIONS,
    ),
    "uniter": published.uniter(SIZE, WORDS, **REGIONS),
    "concatenation": published.concatenation(
        SIZE, replace(SIZE, norm_eps=1e-6), WORDS, fusion_depth=1, image_side=8, patch_size=4, embed_dim=16
    ),
    "albef": ALBEF,
}
PUBLISHED = {
    "bert": (published.bert(), 110_106_428),
    "vilbert": (published.vilbert(), 250_044_029 - 6 * (1025 * 1024 + 1025 * 768)),
    "lxmert": (published.lxmert(), 228_051_752),
    "uniter": (published.uniter(), 112_938_887 - 2048),
    "uniter_large": (published.uniter(published.LARGE), 340_524_935 - 2048),
    "visual_bert": (published.visual_bert(), 110_895_164),
    "vilt": (published.vilt(), 111_595_008),
    "albef": (published.albef(), 209_937_725),
    "concatenation": (published.concatenation(), 260_048_189),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name: str) -> None:
    """ViLBERT without matrices that nothing passes through, and UNITER without the row that is always zero."""
    model, expected = PUBLISHED[name]
    assert num_parameters(nnx.eval_shape(lambda: model.build(jax.random.key(0)))) == expected


def batch_of(num_rows: int = 8) -> dict[str, np.ndarray]:
    """Texts, regions and images, some of them shorter than others."""
    batch = seeded.inputs(
        batch_size=4, text_len=8, num_regions=5, vocab_size=100, feature_dim=16, num_classes=8, padded=True
    )
    named = {
        "text_ids": batch.text_ids,
        "text_mask": batch.text_mask,
        "region_features": batch.features,
        "region_boxes": batch.boxes,
        "region_mask": batch.region_mask,
    }
    rows = {name: np.resize(array, (num_rows, *array.shape[1:])) for name, array in named.items()}
    return rows | {"image": np.random.default_rng(0).integers(0, 256, (num_rows, 8, 8, 3), np.uint8)}


@functools.cache
def params_of(model: FusionConfig) -> Any:
    """Parameters as they are born, norms and biases moved away from ones and zeros."""
    state = jax.device_get(jax.jit(lambda: nnx.to_pure_dict(nnx.state(model.build(jax.random.key(0)))))())
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: x + np.float32(0.1) * rng.normal(size=x.shape).astype(np.float32), state)


def value_and_grads(model: FusionConfig, params: Any, batch: Any) -> Any:
    """Of a function of everything that the model gives; padding is seen by no token that counts."""
    graph = nnx.graphdef(nnx.eval_shape(lambda: model.build(jax.random.key(0))))

    def loss(params: Any) -> Any:
        fusion: Fusion = nnx.merge(graph, params)
        (text, _), outputs = fusion(batch)
        found = {**outputs, "text": text}
        if model.embed_dim:
            tokens = fusion.encode_text(batch["text_ids"], batch["text_mask"]), fusion.encode_image(batch)
            found |= {"embed_text": fusion.embed_text(tokens[0]), "embed_image": fusion.embed_image(tokens[1])}
        return sum(jnp.mean(jnp.sin(x.astype(jnp.float32)[:, :1])) for x in found.values())

    return jax.device_get(jax.jit(jax.value_and_grad(loss))(params))


@functools.cache
def on_one_device(name: str) -> Any:
    return value_and_grads(MODELS[name], params_of(MODELS[name]), batch_of())


# The short ones of tests/objectives/test_fusion.py run an ALBEF and a UNITER on a mesh, loss and all.
LONG = [
    *(("albef", sizes) for sizes in ((8, 1, 1), (2, 4, 1), (2, 2, 2))),
    *((name, (2, 2, 2)) for name in MODELS if name not in ("albef", "vilbert")),
]


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("vilbert", (2, 2, 2)), *(pytest.param(*case, marks=pytest.mark.long) for case in LONG)],
    ids=str,
)
def test_every_mesh_gives_what_one_device_gives(name: str, sizes: tuple[int, int, int]) -> None:
    found = on_mesh(MODELS[name], params_of(MODELS[name]), sizes)
    assert above(relative_errors(found, on_one_device(name)), LAYER) == {}


def on_mesh(model: FusionConfig, params: Any, sizes: tuple[int, int, int]) -> Any:
    """Value and gradients on a mesh of these sizes."""
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), model_spec(model.build, mesh).params_spec)
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, shardings)
        return value_and_grads(model, placed, jax.device_put(batch_of(), rules.batch_sharding(mesh)))


def test_how_it_is_run_changes_nothing() -> None:
    how: dict[str, Any] = {"unroll": ALL, "remat": "full"}
    model = replace(ALBEF, towers=replace(ALBEF.towers, **how), fusion=replace(ALBEF.fusion, **how))
    found = value_and_grads(model, params_of(ALBEF), batch_of())
    assert above(relative_errors(found, on_one_device("albef")), LAYER) == {}


def test_bfloat16_is_near() -> None:
    value, _ = value_and_grads(replace(ALBEF, compute_dtype="bfloat16"), params_of(ALBEF), batch_of())
    assert abs(value - on_one_device("albef")[0]) < BFLOAT16


def test_everything_at_once_is_near() -> None:
    """Rematerialised and in bfloat16 on a mesh of all three axes, beside float32 on one device.

    Of the gradient as a whole: that of a single bias may be a small difference of large numbers.
    """
    towers, fusion = (replace(trunk, remat="full") for trunk in (ALBEF.towers, ALBEF.fusion))
    model = replace(ALBEF, towers=towers, fusion=fusion, compute_dtype="bfloat16")
    value, grads = on_mesh(model, params_of(ALBEF), (2, 2, 2))
    expected, expected_grads = on_one_device("albef")
    assert abs(value - expected) < BFLOAT16
    found, wanted = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]) for tree in (grads, expected_grads))
    distance = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
    # Nearer it would not have been computed in bfloat16.
    assert 10 * LAYER < distance < 2 * BFLOAT16


def test_towers_can_be_kept_for_other_partners() -> None:
    """Encoded apart and then fused is the whole; the text fused with another image is that pair's."""
    model, batch = MODELS["vilbert"], batch_of()
    fusion = built(model)
    text, image = fusion.encode_text(batch["text_ids"], batch["text_mask"]), fusion.encode_image(batch)
    rolled = jax.tree.map(lambda x: jnp.roll(x, 1, axis=0), image)
    other = {name: np.roll(x, 1, axis=0) if name.startswith("region") else x for name, x in batch.items()}
    for partner, whole in ((image, batch), (rolled, other)):
        expected, _ = fusion(whole)
        assert above(relative_errors(fusion.fuse(text, partner), expected), LAYER) == {}


def built(model: FusionConfig) -> Fusion:
    graph = nnx.graphdef(nnx.eval_shape(lambda: model.build(jax.random.key(0))))
    return nnx.merge(graph, jax.tree.map(jnp.asarray, params_of(model)))


def test_the_mean_of_tokens_is_of_those_that_may_be_seen() -> None:
    rng = np.random.default_rng(0)
    x, seen = rng.normal(size=(3, 5, 4)).astype(np.float32), np.arange(5) < np.asarray([[5], [2], [0]])
    means = np.stack([np.float64(row[mask]).sum(0) / max(mask.sum(), 1) for row, mask in zip(x, seen, strict=True)])
    for mask, expected in ((jnp.asarray(seen), means), (None, x.mean(1))):
        np.testing.assert_allclose(Tokens(jnp.asarray(x), mask).mean(), expected, rtol=LAYER, atol=1e-7)


def test_dropout_needs_a_key_and_repeats_with_it() -> None:
    noisy = published.uniter(replace(SIZE, dropout_rate=0.3, attention_dropout_rate=0.2), WORDS, **REGIONS)
    fusion, batch = built(noisy), batch_of()
    run = jax.jit(lambda key: fusion(batch, key)[0].text)
    still = jax.jit(lambda: fusion(batch)[0].text)()
    first, again, other = run(jax.random.key(0)), run(jax.random.key(0)), run(jax.random.key(1))
    assert np.array_equal(first, again)
    assert not np.allclose(first, other, atol=1e-2)
    assert not np.allclose(first, still, atol=1e-2)


def test_matrices_are_drawn_as_bert_draws_them() -> None:
    fusion = published.bert(replace(SIZE, width=128, num_heads=4), WORDS).build(jax.random.key(0))
    for kernel in (fusion.towers.groups[0].layers[0].text.mlp.up.kernel, fusion.text.tokens.table):
        drawn = np.asarray(kernel[...])
        drawn = drawn[np.abs(drawn).sum(-1) > 0]
        assert np.abs(drawn).max() <= 0.04
        # A normal cut off at two deviations has 0.88 of its deviation.
        assert np.std(drawn) == pytest.approx(0.88 * 0.02, rel=0.05)
    assert BERT_INIT(jax.random.key(0), (4,), np.float32).shape == (4,)


GRID = GridInputConfig(
    width=32,
    dropout_rate=0.0,
    tower=ResNetConfig(image_size=33, image_width=64, embedding_dim=4, stage_dims=(8, 16), depths=(1, 1)),
)


@pytest.mark.parametrize(
    "image",
    [GRID, PatchInputConfig(width=32, image_size=8, patch_size=4, class_token=False, norm=True)],
    ids=["grid", "patches"],
)
def test_any_image_input_stands_before_any_fusion(image: Any) -> None:
    heads = HeadsConfig()
    model = replace(published.uniter(SIZE, WORDS, **REGIONS), image=image, heads=heads)
    rows, columns = image.image_shape
    pixels = np.random.default_rng(0).integers(0, 256, (8, rows, columns, 3), np.uint8)
    fusion = built(model)
    (_, tokens), outputs = jax.jit(lambda batch: fusion(batch))(batch_of() | {"image": pixels})
    assert tokens.shape == (8, 5 * 8 if image is GRID else 4, 32)
    assert set(outputs) == {"text_pooled", "token_logits", "pair_logits"}
    hidden = fusion.encode_image(batch_of() | {"image": pixels}, masked=np.ones(tokens.shape[:2], bool))
    assert np.allclose(hidden.tokens[0], hidden.tokens[1], atol=1e-6)


def test_concatenation_is_the_formula() -> None:
    """H = Transformer([h_w ; A h_v], [h_v ; A' h_w]), of which the streams before the layers are compared; float64."""
    block = SIZE.block
    wide = replace(SIZE, width=64).block
    model = FusionConfig(
        text=WORDS.inputs(SIZE),
        image=replace(GRID, tower=replace(GRID.tower)),
        towers=TrunkConfig(block, block, ()),
        concat=ConcatConfig(num_heads=2),
        fusion=TrunkConfig(wide, wide, trunks.single_stream(1)),
    )
    fusion, batch = built(model), batch_of() | {"image": np.zeros((8, 33, 64, 3), np.uint8)}
    text, image = fusion.encode_text(batch["text_ids"], batch["text_mask"]), fusion.encode_image(batch)
    found = fusion.fuse(text, image)
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params_of(model))
    h_w, h_v = (np.asarray(tokens, np.float64) for tokens in (text.tokens, image.tokens))
    everything = np.ones(h_v.shape[:2], bool)
    mask = batch["text_mask"]
    joined = (
        np.concatenate([h_w, attended(params["concat"]["text"], 2, h_w, h_v, everything)], axis=-1),
        np.concatenate([h_v, attended(params["concat"]["image"], 2, h_v, h_w, mask)], axis=-1),
    )
    layer = jax.tree.map(lambda x: x[0], params["fusion"]["groups"][0]["layers"][0]["shared"])
    x = np.concatenate(joined, axis=1)
    seen = np.concatenate([mask, everything], axis=1)
    x = normed(layer["attention_norm"], x + attended(layer["attention"], wide.num_heads, x, x, seen), 1e-12)
    up = np.einsum("btd,df->btf", x, layer["mlp"]["up"]["kernel"]) + layer["mlp"]["up"]["bias"]
    gelu = up * np.vectorize(lambda u: (1 + math.erf(u / math.sqrt(2))) / 2)(up)
    down = np.einsum("btf,fd->btd", gelu, layer["mlp"]["down"]["kernel"]) + layer["mlp"]["down"]["bias"]
    x = normed(layer["mlp_norm"], x + down, 1e-12)
    assert above(relative_errors(found, type(found)(x[:, :8], x[:, 8:])), LAYER) == {}


class TorchALBEF(torch.nn.Module):
    """The paper's figure 1 of parts of `transformers`, under the names of the authors' code but for the ViT's.

    ViT; BERT, whose last layers have cross-attention, with its head of words; the match from the text's first token,
    and the projections of the first tokens before any cross-attention, of length 1.
    """

    def __init__(self, text: dict[str, int], image: dict[str, int], fusion_depth: int, embed_dim: int):
        super().__init__()
        act: dict[str, Any] = {"hidden_act": "gelu", "attn_implementation": "eager"}
        plain, cross = BertConfig(**text, **act), BertConfig(**text, **act, is_decoder=True, add_cross_attention=True)
        self.visual_encoder = ViTModel(
            ViTConfig(**image, hidden_act="gelu", layer_norm_eps=1e-6), add_pooling_layer=False
        )
        self.text_depth, width = plain.num_hidden_layers - fusion_depth, plain.hidden_size
        layers = (BertLayer(plain if n < self.text_depth else cross) for n in range(plain.num_hidden_layers))
        encoder = torch.nn.ModuleDict({"layer": torch.nn.ModuleList(layers)})
        bert = torch.nn.ModuleDict({"embeddings": BertEmbeddings(plain), "encoder": encoder})
        self.text_encoder = torch.nn.ModuleDict({"bert": bert, "cls": BertOnlyMLMHead(plain)})
        self.itm_head = torch.nn.Linear(width, 2)
        self.vision_proj, self.text_proj = (
            torch.nn.Linear(image["hidden_size"], embed_dim),
            torch.nn.Linear(width, embed_dim),
        )
        words = self.text_encoder["cls"].predictions
        words.decoder.weight, words.decoder.bias = bert["embeddings"].word_embeddings.weight, words.bias

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        image = self.visual_encoder(pixels).last_hidden_state
        tower = self._run(slice(self.text_depth), self.text_encoder["bert"]["embeddings"](input_ids=ids), mask, {})
        source = {"encoder_hidden_states": image}
        text = self._run(slice(self.text_depth, None), tower, mask, source)
        normalize = torch.nn.functional.normalize
        return {
            "text": text,
            "image": image,
            "token_logits": self.text_encoder["cls"](text),
            "pair_logits": self.itm_head(text[:, 0]),
            "text_embed": normalize(self.text_proj(tower[:, 0]), dim=-1),
            "image_embed": normalize(self.vision_proj(image[:, 0]), dim=-1),
        }

    def _run(
        self, which: slice, text: torch.Tensor, mask: torch.Tensor, source: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        hidden = (1 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
        for layer in self.text_encoder["bert"]["encoder"]["layer"][which]:
            text = layer(text, attention_mask=hidden, **source)
            text = text if torch.is_tensor(text) else text[0]
        return text


class ALBEFSize(NamedTuple):
    """A size of both sides' models, in our words."""

    text: Size
    image: Size
    vocabulary: Vocabulary
    fusion_depth: int
    image_side: int
    patch_size: int
    embed_dim: int

    @property
    def model(self) -> FusionConfig:
        sizes = self._asdict()
        return published.albef(sizes.pop("text"), sizes.pop("image"), sizes.pop("vocabulary"), **sizes)

    @property
    def theirs(self) -> TorchALBEF:
        """With seeded weights."""
        words = {
            "vocab_size": self.vocabulary.vocab_size,
            "max_position_embeddings": self.vocabulary.context_len,
            "type_vocab_size": self.vocabulary.num_token_types,
        }
        sides = {"image_size": self.image_side, "patch_size": self.patch_size}
        text, image = theirs_of(self.text) | words, theirs_of(self.image) | sides
        module = TorchALBEF(text, image, self.fusion_depth, self.embed_dim).eval()
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.copy_(torch.from_numpy(seeded.array(name, tuple(parameter.shape))))
        return module


def theirs_of(size: Size) -> dict[str, int]:
    return {
        "hidden_size": size.width,
        "num_hidden_layers": size.depth,
        "num_attention_heads": size.num_heads,
        "intermediate_size": size.mlp_dim,
    }


ALBEF_SIZES = {
    "small": ALBEFSize(
        Size(width=36, depth=3, num_heads=3, mlp_dim=52),
        Size(width=36, depth=2, num_heads=4, mlp_dim=28, norm_eps=1e-6, **STILL),
        WORDS,
        fusion_depth=2,
        image_side=15,
        patch_size=5,
        embed_dim=10,
    ),
    "base": ALBEFSize(published.BASE, published.VIT, published.UNCASED, 6, 256, 16, 256),
}


@pytest.mark.parametrize("name", ["small", pytest.param("base", marks=pytest.mark.long)])
def test_albef_is_made_of_vit_and_bert(name: str) -> None:
    """Streams, all heads and both embeddings, with padding and without, under the names of ALBEF's authors."""
    size = ALBEF_SIZES[name]
    theirs, model = size.theirs, size.model
    state = {key: x.numpy() for key, x in theirs.state_dict().items()}
    run = Run(model, dict(ALBEF_FORMAT.parameters(model, {**dict(_renamed(state)), "temp": np.float32(0.07)})))
    rng = np.random.default_rng(0)
    ids = rng.integers(1, size.vocabulary.vocab_size, (3, 9)).astype(np.int32)
    pixels = rng.normal(size=(3, size.image_side, size.image_side, 3)).astype(np.float32)
    for lengths in ([9, 9, 9], [9, 6, 3]):
        mask = np.arange(9) < np.asarray(lengths)[:, None]
        with torch.no_grad():
            given = (ids.astype(np.int64), mask, pixels.transpose(0, 3, 1, 2).copy())
            expected = {key: x.numpy() for key, x in theirs(*map(torch.from_numpy, given)).items()}
        batch = {"text_ids": jnp.asarray(ids), "text_mask": jnp.asarray(mask), "image": jnp.asarray(pixels)}
        streams, outputs = run(batch)
        found = {"text": streams.text, "image": streams.image} | outputs
        found |= {
            "text_embed": run.module.text_embed(batch["text_ids"], batch["text_mask"]),
            "image_embed": run.module.image_embed(batch),
        }
        assert found.keys() == expected.keys()
        assert above(relative_errors(found, expected), LAYER if name == "small" else MODEL) == {}


def _renamed(state: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    names = {
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "attention.o_proj": "attn.proj",
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "embeddings.cls_token": "cls_token",
        "embeddings.position_embeddings": "pos_embed",
        "layers.": "blocks.",
        "layernorm": "norm",
    }
    for name, array in state.items():
        if not name.startswith("visual_encoder."):
            yield name, array
        elif ".q_proj." in name:
            parts = [state[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            prefix, _, kind = name.replace("layers.", "blocks.").partition(".attention.q_proj.")
            yield f"{prefix}.attn.qkv.{kind}", np.concatenate(parts)
        elif ".k_proj." not in name and ".v_proj." not in name:
            for old, new in names.items():
                name = name.replace(old, new)
            yield name, array


def test_albef_comes_back() -> None:
    model = published.albef(SIZE, replace(SIZE, norm_eps=1e-6), WORDS, fusion_depth=1, image_side=8, patch_size=4)
    spec = ALBEF_FORMAT.read(ALBEF_FORMAT.write(Spec(model, None)))
    assert spec.model == model
    params = {path: seeded.array(path, shape) for path, shape in parameter_shapes(model, "both").items()}
    params["text/tokens/table"][WORDS.vocab_size :] = 0
    params["token_head/bias"][WORDS.vocab_size :] = 0
    returned = dict(ALBEF_FORMAT.parameters(model, dict(ALBEF_FORMAT.tensors(model, params))))
    assert returned.keys() == params.keys()
    for path, array in params.items():
        if path == "log_scale":
            assert returned[path] == pytest.approx(array, rel=1e-6)
        else:
            np.testing.assert_array_equal(returned[path], array, err_msg=path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"towers": TrunkConfig(SIZE.block, SIZE.block, trunks.single_stream(1))}, "in towers sees the other stream"),
        ({"text": WORDS.inputs(replace(SIZE, width=16))}, r"towers\.text\.width is 32, but what comes in is 16 wide"),
        ({"pooler": None}, "heads.pair 'text' needs a pooler"),
        ({"heads": HeadsConfig(pair="product")}, "needs both streams pooled"),
        ({"image": GRID}, "a tied head of regions predicts their features"),
        ({"concat": ConcatConfig()}, r"fusion\.text\.width is 32, but what comes in is 64 wide"),
    ],
    ids=str,
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(MODELS["uniter"], **changes)


def test_a_layer_that_reads_the_other_stream_needs_it() -> None:
    cross = Group((Layer(text="image", image_mlp=False),))
    model = replace(MODELS["uniter"], fusion=TrunkConfig(SIZE.block, SIZE.block, (cross,)))
    fusion, batch = built(model), batch_of()
    with pytest.raises(ValueError, match="reads a stream that is not run"):
        fusion.fuse(fusion.encode_text(batch["text_ids"], batch["text_mask"]), None)


def test_the_layers_of_the_published_vilbert() -> None:
    """Six layers of text alone, then six times a co-attention and a layer of each stream; figure 2 of the paper."""
    model = published.vilbert()
    connection = Layer(text="image", image="text", inner_width=1024, num_heads=8)
    assert model.towers.groups == (Group((trunks.TEXT,), 6),)
    assert model.fusion.groups == (Group((connection, trunks.EACH_ITS_OWN), 6),)


def test_albef_is_written_as_its_class_starts_to_train() -> None:
    """With a momentum copy of what has one, tied tensors too, queues of unit vectors, and position ids: all that the
    authors' class asks for (its `load_state_dict(strict=True)` took it, by hand)."""
    model = published.albef(SIZE, replace(SIZE, norm_eps=1e-6), WORDS, fusion_depth=1, image_side=8, patch_size=4)
    params = {path: seeded.array(path, shape) for path, shape in parameter_shapes(model, "both").items()}
    written = dict(ALBEF_FORMAT.tensors(model, params))
    copied = {
        name for name in written if name.split(".")[0] in ("visual_encoder", "text_encoder", "vision_proj", "text_proj")
    }
    copies = {name: name.replace(".", "_m.", 1) for name in copied}
    assert written.keys() - copied - set(copies.values()) == {
        *("temp", "itm_head.weight", "itm_head.bias", "image_queue", "text_queue", "queue_ptr")
    }
    for name, copy in copies.items():
        np.testing.assert_array_equal(written[copy], written[name], err_msg=name)
    tied = {"text_encoder_m.cls.predictions.decoder.weight", "text_encoder_m.bert.embeddings.position_ids"}
    assert tied <= set(copies.values())
    for queue in (written["image_queue"], written["text_queue"]):
        assert queue.shape == (model.embed_dim, 65536)
        np.testing.assert_allclose(np.linalg.norm(queue, axis=0), 1, rtol=1e-5)
    assert not np.array_equal(written["image_queue"], written["text_queue"])
    assert written["queue_ptr"].tolist() == [0]
    assert written["text_encoder.bert.embeddings.position_ids"].tolist() == [list(range(model.text.context_len))]
