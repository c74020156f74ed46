"""Alignment of words and regions by optimal transport: how far the tokens of a text are from those of an image.

Both sides are uniform distributions over their tokens, which lie anywhere in `text` (b, t, d) and `image` (b, p, d);
`text_mask` (b, t) and `image_mask` (b, p) say where. Padding may be anything, NaN too, and has no
gradient. Inputs may be bfloat16; all is computed in float32.
"""

import jax
import jax.numpy as jnp

from mmjax.types import Array, Mean

NORM_FLOOR = 1e-5
"""The least norm that a token is divided by; from the authors' code of UNITER, as are the next two."""
BETA = 0.5
NUM_STEPS = 50


def word_region_alignment(
    text: Array, image: Array, text_mask: Array, image_mask: Array, matched: Array, weights: Array
) -> Mean:
    """The mean over examples of s D: their `transport_distance` D with s = 1 where `matched` (b,), and -1 elsewhere.

    So pairs come together, and others part. An example of `weights` (b,) w counts as w examples; one of 0 is not there.

    Source: UNITER, Chen et al. (2020), section 3.2, "Word-Region Alignment"; the signs are from the authors' code.
    """
    weights = jax.lax.stop_gradient(weights.astype(jnp.float32))
    counted = weights[:, None] != 0
    distances = transport_distance(text, image, text_mask & counted, image_mask & counted)
    return Mean.of(jnp.where(matched, distances, -distances), weights)


def transport_distance(
    text: Array, image: Array, text_mask: Array, image_mask: Array, *, beta: float = BETA, num_steps: int = NUM_STEPS
) -> Array:
    """sum_ij C_ij P_ij float32 (b,), of `cosine_costs` C and the `transport_plan` P; 0 where a side has no token.

    P is a constant: at the optimum the derivative by C is P itself (the envelope theorem).

    Source: UNITER, Chen et al. (2020), section 3.2, "Word-Region Alignment".
    """
    costs = cosine_costs(text, image, text_mask, image_mask)
    plan = transport_plan(costs, text_mask, image_mask, beta=beta, num_steps=num_steps)
    return jnp.sum(costs * plan, axis=(1, 2))


def cosine_costs(text: Array, image: Array, text_mask: Array, image_mask: Array) -> Array:
    """1 - x_i . y_j / (|x_i| |y_j|) float32 (b, t, p), and 0 where either is padding; norms are at least 1e-5."""
    x, y = _directions(text, text_mask), _directions(image, image_mask)
    cosines = jnp.einsum("btd,bpd->btp", x, y, precision=jax.lax.Precision.HIGHEST)
    return jnp.where(_both(text_mask, image_mask), 1 - cosines, 0)


def transport_plan(
    costs: Array, text_mask: Array, image_mask: Array, *, beta: float = BETA, num_steps: int = NUM_STEPS
) -> Array:
    """How much of each token goes to each region at the least cost: P (b, t, p), a constant, 0 at padding.

    The sum over regions is 1/T at each of the T tokens that are there, and that over tokens comes close to 1/R at each
    of the R regions. Starting from P = 1 and v = 1/T, `num_steps` times

        Q_ij = exp(-C_ij / beta) P_ij
        u_j = 1 / (R sum_i Q_ij v_i),  v_i = 1 / (T sum_j Q_ij u_j)
        P_ij = v_i Q_ij u_j

    each of which is a proximal step of size beta with one Sinkhorn iteration: with many steps P becomes the optimum
    itself, and not one with more entropy.

    Source: IPOT, Xie et al. (2018), algorithm 1 with L = 1; beta and the number of steps from UNITER.
    """
    costs = jax.lax.stop_gradient(costs.astype(jnp.float32))
    both = _both(text_mask, image_mask)
    kernel = jnp.where(both, jnp.exp(-costs / beta), 0)
    num_tokens, num_regions = (
        jnp.sum(mask, axis=1, keepdims=True).astype(kernel.dtype) for mask in (text_mask, image_mask)
    )

    def step(_: int, state: tuple[Array, Array]) -> tuple[Array, Array]:
        plan, token_scale = state
        moved = kernel * plan
        region_scale = _inverse(num_regions * jnp.sum(moved * token_scale[:, :, None], axis=1))
        token_scale = _inverse(num_tokens * jnp.sum(moved * region_scale[:, None, :], axis=2))
        return token_scale[:, :, None] * moved * region_scale[:, None, :], token_scale

    start = both.astype(kernel.dtype), _inverse(num_tokens) * text_mask
    return jax.lax.fori_loop(0, num_steps, step, start)[0]


def _directions(tokens: Array, mask: Array) -> Array:
    """Float32, of norm 1."""
    tokens = jnp.where(mask[..., None], tokens.astype(jnp.float32), 0)
    squares = jnp.sum(jnp.square(tokens), axis=-1, keepdims=True)
    # The floor stands inside of the root, whose slope at 0 would be infinite.
    return tokens / jnp.sqrt(jnp.maximum(squares, NORM_FLOOR**2))


def _both(text_mask: Array, image_mask: Array) -> Array:
    """Bool (b, t, p)."""
    return text_mask[:, :, None] & image_mask[:, None, :]


def _inverse(x: Array) -> Array:
    """1 / x, and 0 at padding, where x is 0."""
    return jnp.where(x > 0, 1 / x, 0)
