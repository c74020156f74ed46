"""What a model is, before anything is compiled: parameters, and FLOPs as traced and as its formula has them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mmjax.experiment import Experiment
from mmjax.models.dual_encoder import DualEncoderConfig
from mmjax.models.text import TextConfig
from mmjax.models.vit import ViTConfig
from mmjax.nn.parameter import num_parameters
from mmjax.parallel import rules
from mmjax.training.cost import step_cost
from mmjax.training.flops import TRAIN_PER_FORWARD, count_flops
from mmjax.training.program import Program, placed

TOWERS = ("image", "text")


class PartFlops(NamedTuple):
    """FLOPs of one example. `closed_form` is the formula's forward count, None where there is none."""

    forward: int
    backward: int
    """With what rematerialisation computes again."""
    closed_form: int | None


class Figures(NamedTuple):
    parameters: dict[str, int]
    """By the first name of their paths, and in all."""
    parts: dict[str, PartFlops]
    """Of each tower, and of the loss."""
    step_flops: int
    """Model FLOPs of a step: three forward passes, whatever is computed again."""


def figures(experiment: Experiment, program: Program) -> Figures:
    """Counted on the traced program of `experiment`; call it under the mesh."""
    model = nnx.merge(program.model.graphdef, program.abstract_state.params)
    counts = {
        name: num_parameters(part)
        for name, part in sorted(vars(model).items())
        if isinstance(part, nnx.Module) and num_parameters(part)
    }
    total = num_parameters(model)
    counts |= {"other": total - sum(counts.values()), "all": total}
    # The devices are not there to be measured, and their peak is not asked for.
    cost = step_cost(program, peak_override=1.0)
    parts = {tower: _tower(experiment, program, tower, cost.batch_size) for tower in TOWERS}
    forward = cost.step_flops // TRAIN_PER_FORWARD // cost.batch_size - sum(part.forward for part in parts.values())
    parts["loss"] = PartFlops(forward, (TRAIN_PER_FORWARD - 1) * forward, None)
    return Figures(counts, parts, cost.step_flops)


def _tower(experiment: Experiment, program: Program, tower: Any, batch_size: int) -> PartFlops:
    def run(params: Any, batch: Any) -> Any:
        return nnx.merge(program.model.graphdef, params).run_tower(tower, batch, None)

    def total(params: Any, batch: Any) -> Any:
        leaves = [x for x in jax.tree.leaves(run(params, batch)) if jnp.issubdtype(x.dtype, jnp.floating)]
        return sum((jnp.sum(leaf.astype(jnp.float32)) for leaf in leaves[:1]), start=jnp.zeros(()))

    plain = rules.without_devices(jax.sharding.get_mesh())
    arguments = placed((program.abstract_state.params, program.batch_spec), plain)
    with jax.sharding.use_abstract_mesh(plain):
        forward = count_flops(run, *arguments) // batch_size
        backward = count_flops(jax.grad(total), *arguments) // batch_size - forward if forward else 0
    return PartFlops(forward, backward, closed_form(experiment.model, tower))


def closed_form(model: Any, tower: str) -> int | None:
    """Forward FLOPs of one example by the formula of a Transformer; None of models that it does not fit.

    A layer of width d and feed-forward width f has 2 t (4 d^2 + 2 d f) for its matrices and 4 t^2 d for scores and
    what is read, of t positions.
    """
    if not isinstance(model, DualEncoderConfig):
        return None
    config = getattr(model, tower)
    count = _FORMULAS.get(type(config))
    if count is None:
        return None
    projects = getattr(model, f"{tower}_projection") != "none"
    flops: int | None = count(config)
    return None if flops is None else flops + (2 * config.width * model.embed_dim if projects else 0)


def _layers(config: ViTConfig | TextConfig, length: int) -> int:
    width, inner = config.width, config.mlp_dim
    return config.depth * (2 * length * (4 * width**2 + 2 * width * inner) + 4 * length**2 * width)


def _map_pool(config: ViTConfig | TextConfig, length: int) -> int:
    """One query: scores of each head and what it reads, values, output, and a feed-forward layer.

    What the heads look for is the same for a whole batch, and left out.
    """
    width, inner = config.width, config.mlp_dim
    return 4 * length * width * config.num_heads + 2 * (2 * width**2 + 2 * width * inner)


def _pool(config: ViTConfig | TextConfig, length: int) -> int:
    pooler = 2 * config.width**2 if config.pooler else 0
    return pooler + (_map_pool(config, length) if config.pool == "map" else 0)


def _vit_flops(config: ViTConfig) -> int | None:
    if config.stem != "patch" or config.pool == "concat" or config.patch_dropout_rate:
        return None
    patches = config.grid[0] * config.grid[1]
    stem = 2 * patches * 3 * config.patch_size**2 * config.width
    return stem + _layers(config, config.num_tokens) + _pool(config, config.num_tokens)


def _text_flops(config: TextConfig) -> int:
    return _layers(config, config.context_len) + _pool(config, config.context_len)


_FORMULAS: dict[type, Callable[[Any], int | None]] = {ViTConfig: _vit_flops, TextConfig: _text_flops}
