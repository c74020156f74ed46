"""Negatives of image-text matching, drawn from the whole batch: a text for each image, and an image for each text."""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from mmjax.errors import UserError
from mmjax.losses import dense
from mmjax.losses.tiles import Cut
from mmjax.parallel import rules
from mmjax.types import Array, Key

Mode = Literal["hard", "random"]

TILE = 4096
"""The most columns that are compared with a device's rows at a time. What is drawn depends on it, not on the mesh."""


class Negatives(NamedTuple):
    """Examples of which one side is put beside the other side of each example, and does not belong with it.

    text_for_image, image_for_text: int32 (b,), rows of the global batch; the example's own where it has no negative.
    weights: float32 (b,), those of the examples, and 0 where the batch has no negative of one.
    """

    text_for_image: Array
    image_for_text: Array
    weights: Array


def sample_negatives(
    image_embed: Array,
    text_embed: Array,
    log_scale: Array | float,
    ids: Array,
    weights: Array,
    key: Key,
    *,
    mode: Mode = "hard",
) -> Negatives:
    """One negative of each image and of each text, without gradient.

    `hard`: text j for image i with probability w_j exp(l_ij) / sum_k w_k exp(l_ik), l_ij = exp(log_scale) x_i . y_j of
    `image_embed` and `text_embed` (b, e), and images for texts the other way; `random`: with w_j / sum_k w_k. Sums are
    over the examples of the whole batch whose `ids` (b,) differ from i's. As everywhere an example of `weights` (b,) w
    counts as w examples, and one of weight 0 is no one's negative.

    Source: `hard` ALBEF, Li et al. (2021), section 3.2; `random` UNITER, Chen et al. (2020), section 3.2.
    Drawn is the largest l_ij + log w_j + g_ij with noise g of a Gumbel distribution: Maddison et al. (2014), section 2.

    Raises:
        UserError: another `mode`.
    """
    if mode not in get_args(Mode):
        raise UserError(f"mode = {mode!r} of the negatives is unknown: use one of {', '.join(get_args(Mode))}")
    image_embed, text_embed, log_scale = jax.lax.stop_gradient((image_embed, text_embed, log_scale))
    scale = jnp.exp(jnp.asarray(log_scale, jnp.float32))
    weights = jax.lax.stop_gradient(weights.astype(jnp.float32))
    image_key, text_key = jax.random.split(key)
    if mode == "hard":
        text = _draw(image_key, ids, weights, (scale * image_embed.astype(jnp.float32), text_embed))
        image = _draw(text_key, ids, weights, (scale * text_embed.astype(jnp.float32), image_embed))
    else:
        text, image = (_draw(side_key, ids, weights, None) for side_key in (image_key, text_key))
    # A row is no negative of itself: where it was drawn there was no other.
    return Negatives(text, image, jnp.where(text == _rows(ids), 0, weights))


def _draw(key: Key, ids: Array, weights: Array, embeds: tuple[Array, Array] | None) -> Array:
    """For each row one of another id, int32 (b,), by w_j exp(x_i . y_j) of `embeds` (x, y) (b, e), or by w_j alone."""
    cut = Cut.of(len(ids), TILE)

    def columns(x: Array) -> Array:
        """Those of all devices in tiles; what they are padded with has weight 0."""
        return cut.split(rules.gather(x, "je"[: x.ndim]))

    def step(best: tuple[Array, Array], column: tuple[Array, ...]) -> tuple[tuple[Array, Array], None]:
        number, column_ids, column_weights, *column_embed = column
        logits = jnp.log(column_weights)
        if embeds is not None:
            logits = logits + dense.similarities(embeds[0], *column_embed)
        # Of the default's coarser noise, columns of a large batch sometimes tie, and the first would win.
        shape, tile_key = (len(ids), cut.tile), jax.random.fold_in(key, number)
        noise = jax.random.gumbel(tile_key, shape, mode="high", out_sharding=rules.spec("bj"))
        score = jnp.where(ids[:, None] == column_ids, -jnp.inf, logits + noise)
        top, row = jnp.max(score, axis=1), number * cut.tile + jnp.argmax(score, axis=1)
        return jax.tree.map(lambda new, old: jnp.where(top > best[0], new, old), (top, row), best), None

    tiles = (
        jnp.arange(cut.num_tiles),
        columns(ids),
        columns(weights),
        *([] if embeds is None else [columns(embeds[1])]),
    )
    return jax.lax.scan(step, (jnp.full_like(weights, -jnp.inf), _rows(ids)), tiles)[0][1]


def _rows(ids: Array) -> Array:
    """The number of each row, int32 (b,)."""
    return rules.gather(jnp.arange(len(ids), dtype=jnp.int32), "b")
