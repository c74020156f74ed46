"""Loss and gradient of one global batch: at once, through cached embeddings, or as a weighted sum.

The three agree. At once is the definition. Cached embeddings (GradCache, Gao et al. 2021; BASIC, Pham et al. 2021) give
the same gradient with the activations of one microbatch in memory: all microbatches are embedded without residuals,
the loss of the whole batch is differentiated with respect to the embeddings, and each microbatch is embedded again to
pull its part back to the parameters. The weighted sum is for objectives whose loss is a sum over examples: sums and
counts are added up over microbatches and divided once, since a mean of microbatch means is wrong for unequal weights.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mmjax.objectives.base import Embeddings, Objective, ObjectiveState
from mmjax.types import Array, Batch, Key, Loss, Params

LOSS = "loss"
"""The name of the loss in profiles and plans; modules have those of their parameters."""

Gradient = Callable[[Params, Batch, ObjectiveState, Key], tuple[Params, Loss, ObjectiveState]]


def make_gradient(graphdef: nnx.GraphDef, objective: Objective, accumulate: int) -> Gradient:
    """The function that gives (gradient, loss, next objective state) for a batch taken in `accumulate` microbatches."""
    if accumulate == 1:
        return at_once(graphdef, objective)
    if objective.decomposes:
        return summed(graphdef, objective, accumulate)
    return cached(graphdef, objective, accumulate)


def at_once(graphdef: nnx.GraphDef, objective: Objective) -> Gradient:
    """Differentiates the loss of the whole batch in one piece."""

    def gradient(params: Params, batch: Batch, state: ObjectiveState, key: Key) -> tuple[Params, Loss, ObjectiveState]:
        encode_key, loss_key = jax.random.split(key)

        def mean_loss(params: Params) -> tuple[Array, tuple[Loss, ObjectiveState]]:
            model = nnx.merge(graphdef, params)
            embeddings = objective.encode(model, batch, encode_key)
            with jax.named_scope(LOSS):
                loss, next_state = objective.loss(model, embeddings, batch, state, loss_key)
            return loss.total.value, (loss, next_state)

        grads, (loss, next_state) = jax.grad(mean_loss, has_aux=True)(params)
        return grads, loss, next_state

    return gradient


def cached(graphdef: nnx.GraphDef, objective: Objective, accumulate: int) -> Gradient:
    """Differentiates the loss of the whole batch through embeddings that are computed one microbatch at a time."""

    def gradient(params: Params, batch: Batch, state: ObjectiveState, key: Key) -> tuple[Params, Loss, ObjectiveState]:
        encode_key, loss_key = jax.random.split(key)
        # The second pass gets the same keys as the first, so that its dropout masks are the same.
        microbatches = (split_rows(batch, accumulate), jax.random.split(encode_key, accumulate))

        def encode(params: Params, microbatch: Batch, key: Key) -> Embeddings:
            return objective.encode(nnx.merge(graphdef, params), microbatch, key)

        embeddings = join_rows(jax.lax.map(lambda microbatch: encode(params, *microbatch), microbatches))

        def mean_loss(params: Params, numbers: list[Array]) -> tuple[Array, tuple[Loss, ObjectiveState]]:
            model = nnx.merge(graphdef, params)
            with jax.named_scope(LOSS):
                loss, next_state = objective.loss(model, with_floats(embeddings, numbers), batch, state, loss_key)
            return loss.total.value, (loss, next_state)

        def pull_back(grads: Params, inputs: tuple[tuple[Batch, Key], list[Array]]) -> tuple[Params, None]:
            microbatch, embed_grads = inputs
            _, vjp = jax.vjp(lambda params: floats(encode(params, *microbatch)), params)
            return add(grads, vjp(embed_grads)[0]), None

        differentiate = jax.grad(mean_loss, argnums=(0, 1), has_aux=True)
        (grads, embed_grads), (loss, next_state) = differentiate(params, floats(embeddings))
        grads, _ = jax.lax.scan(pull_back, grads, (microbatches, split_rows(embed_grads, accumulate)))
        return grads, loss, next_state

    return gradient


def summed(graphdef: nnx.GraphDef, objective: Objective, accumulate: int) -> Gradient:
    """Adds the gradients of the microbatches' summed losses, and divides by the count of the whole batch."""

    def gradient(params: Params, batch: Batch, state: ObjectiveState, key: Key) -> tuple[Params, Loss, ObjectiveState]:
        def sum_loss(
            params: Params, microbatch: Batch, state: ObjectiveState, key: Key
        ) -> tuple[Array, tuple[Loss, ObjectiveState]]:
            encode_key, loss_key = jax.random.split(key)
            model = nnx.merge(graphdef, params)
            embeddings = objective.encode(model, microbatch, encode_key)
            with jax.named_scope(LOSS):
                loss, next_state = objective.loss(model, embeddings, microbatch, state, loss_key)
            return loss.total.sum, (loss, next_state)

        def accumulate_one(carry: Any, inputs: tuple[Batch, Key]) -> tuple[Any, Loss]:
            grads, state = carry
            microbatch_grads, (loss, state) = jax.grad(sum_loss, has_aux=True)(params, inputs[0], state, inputs[1])
            return (add(grads, microbatch_grads), state), loss

        microbatches = (split_rows(batch, accumulate), jax.random.split(key, accumulate))
        zeros = jax.tree.map(jnp.zeros_like, params)
        (grads, next_state), losses = jax.lax.scan(accumulate_one, (zeros, state), microbatches)
        loss = jax.tree.map(lambda x: jnp.sum(x, axis=0), losses)
        count = jnp.maximum(loss.total.count, jnp.finfo(jnp.float32).tiny)
        return jax.tree.map(lambda g: g / count, grads), loss, next_state

    return gradient


def floats(embeddings: Embeddings) -> list[Array]:
    """What has a gradient: masks and labels that go along have none."""
    return [leaf for leaf in jax.tree.leaves(embeddings) if _is_float(leaf)]


def with_floats(embeddings: Embeddings, numbers: list[Array]) -> Embeddings:
    """`embeddings` with `numbers` in the place of its `floats`."""
    rest = iter(numbers)
    found: Embeddings = jax.tree.map(lambda leaf: next(rest) if _is_float(leaf) else leaf, embeddings)
    return found


def _is_float(leaf: Array) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def split_rows(tree: Any, num_microbatches: int) -> Any:
    """Arrays (b, ...) as (a, b / a, ...): microbatch m takes the rows r with r % a == m.

    Consecutive rows would put each microbatch on a part of the devices; strided ones leave every row where it is.
    """

    def split(x: Array) -> Array:
        return jnp.swapaxes(x.reshape(x.shape[0] // num_microbatches, num_microbatches, *x.shape[1:]), 0, 1)

    return jax.tree.map(split, tree)


def join_rows(tree: Any) -> Any:
    """Arrays (a, b / a, ...) as (b, ...), the inverse of `split_rows`."""
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), tree)


def add(left: Params, right: Params) -> Params:
    return jax.tree.map(jnp.add, left, right)
