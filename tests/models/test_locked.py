"""A locked tower: no backward pass, no dropout, running statistics, and not one bit of change in training."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from mmjax.models.dual_encoder import DualEncoder, DualEncoderConfig
from mmjax.nn.norm import l2_normalise
from mmjax.objectives.contrastive import ContrastiveConfig
from mmjax.optim import paths
from mmjax.optim.optimizer import OptimConfig, make_optimizer
from mmjax.optim.rules import DEFAULT_RULES, Rule
from mmjax.training.cost import step_cost
from mmjax.training.flops import count_flops
from mmjax.training.program import batch_shapes, build_program
from mmjax.training.step import TrainConfig
from mmjax.types import Params
from tests import tiny
from tests.tolerances import LAYER

KEY = jax.random.key(0)
BATCH = {name: jnp.asarray(array) for name, array in tiny.batch(4).items()}
DROPPED = {"dropout_rate": 0.5, "drop_path_rate": 0.5}
MODEL = replace(
    tiny.SIGLIP,
    image=replace(tiny.SIGLIP.image, stem="conv", stem_norm="batch", **DROPPED),
    text=replace(tiny.SIGLIP.text, **DROPPED),
    image_projection="linear",
)


def split(config: DualEncoderConfig) -> tuple[Any, Params]:
    graph, state = nnx.split(DualEncoder(config, KEY))
    return graph, nnx.to_pure_dict(state)


def loss(graph: Any, params: Params, key: jax.Array | None) -> jax.Array:
    model = nnx.merge(graph, params)
    image_embed, _ = model.encode_image(BATCH["image"], key)
    text_embed, _ = model.encode_text(BATCH["text_ids"], BATCH["text_mask"], key)
    return jnp.sum(jnp.square(image_embed - text_embed))


@pytest.mark.parametrize("locked", ["image", "text"])
def test_a_locked_tower_stays_bit_for_bit_and_the_rest_learns(locked):
    config = replace(MODEL, locked=locked)
    graph, params = split(config)
    rules = (*(Rule(pattern, freeze=True) for pattern in config.frozen_paths), *DEFAULT_RULES)
    optimizer, _ = make_optimizer(OptimConfig(learning_rate=0.1, weight_decay=0.1, rules=rules), params, 2)

    @jax.jit
    def step(params: Params, opt_state: Any, key: jax.Array) -> tuple[Params, Any]:
        grads = jax.grad(loss, argnums=1)(graph, params, key)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    trained, opt_state = params, optimizer.init(params)
    for seed in range(2):
        trained, opt_state = step(trained, opt_state, jax.random.key(seed))
    changed = {
        path
        for (path, before), after in zip(paths.leaves(params).items(), jax.tree.leaves(trained), strict=True)
        if not np.array_equal(before, after)
    }
    other = "text" if locked == "image" else "image"
    assert {path.split("/")[0] for path in changed} == {other, "image_projection", "text_projection"}
    assert not any(path.startswith(f"{locked}/") for path in changed)


@pytest.mark.parametrize(("locked", "other"), [("image", "text"), ("text", "image")])
def test_a_locked_tower_costs_its_forward_pass_alone(locked, other):
    graph, params = split(replace(MODEL, locked=locked))

    def embed(params: Params, tower: str) -> jax.Array:
        model = nnx.merge(graph, params)
        if tower == "image":
            return model.encode_image(BATCH["image"], KEY)[0]
        return model.encode_text(BATCH["text_ids"], BATCH["text_mask"], KEY)[0]

    def of_given_features(params: Params, features: jax.Array) -> jax.Array:
        projection = getattr(nnx.merge(graph, params), f"{locked}_projection")
        return jnp.sum(jnp.square(l2_normalise(projection(features)) - embed(params, other)))

    def forward(params: Params) -> jax.Array:
        model = nnx.merge(graph, params)
        inputs = [BATCH["image"]] if locked == "image" else [BATCH["text_ids"], BATCH["text_mask"]]
        return getattr(model, locked)(*inputs)[0]

    features = jax.eval_shape(forward, params)
    behind = count_flops(jax.grad(of_given_features), params, features)
    whole = count_flops(lambda params: jax.grad(loss, argnums=1)(graph, params, KEY), params)
    assert whole == count_flops(forward, params) + behind


@pytest.mark.parametrize("locked", ["image", "text"])
def test_a_locked_tower_runs_as_in_evaluation(locked):
    config = replace(MODEL, locked=locked)
    model = DualEncoder(config, KEY)

    @jax.jit
    def embeddings(key: jax.Array | None) -> dict[str, jax.Array]:
        image_embed, _ = model.encode_image(BATCH["image"], key)
        text_embed, _ = model.encode_text(BATCH["text_ids"], BATCH["text_mask"], key)
        return {"image": image_embed, "text": text_embed}

    trained, evaluated = embeddings(KEY), embeddings(None)
    for tower in ("image", "text"):
        assert np.allclose(trained[tower], evaluated[tower], atol=LAYER) == (tower == locked)


def test_a_locked_tower_counts_as_one_forward_pass(mesh):
    costs = {}
    for locked in ("none", "image", "text"):
        config = replace(tiny.SIGLIP, locked=locked)
        shapes = batch_shapes(tiny.data(8), mesh)
        program = build_program(
            lambda key, config=config: DualEncoder(config, key),
            ContrastiveConfig().build(),
            OptimConfig(),
            TrainConfig(),
            mesh,
            shapes,
        )
        costs[locked] = step_cost(program, 1.0)
    for locked in ("image", "text"):
        saved = 2 * costs["none"].batch_size * costs["none"].tower_flops[locked]
        assert costs[locked].step_flops == costs["none"].step_flops - saved
