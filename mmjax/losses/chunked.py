"""The sigmoid loss with negatives of a chunk alone: no embedding is sent, and few pairs are compared."""

import jax
import jax.numpy as jnp

from mmjax.errors import UserError
from mmjax.losses import dense
from mmjax.parallel import rules
from mmjax.types import Array, Mean


def chunked_sigmoid(
    image_embed: Array,
    text_embed: Array,
    log_scale: Array,
    bias: Array | None = None,
    ids: Array | None = None,
    weights: Array | None = None,
    *,
    num_chunks: int,
) -> Mean:
    """The sigmoid loss of each chunk of b / `num_chunks` rows that follow each other, as one mean over all examples.

    Arguments as in `contrastive`; a row of another chunk is neither a pair nor a negative. With a chunk on each device
    (or several) no embedding is sent. Fewer negatives are a weaker signal: it is for where sending is dear.

    Source: Zhai et al. (2023), section 3.3 and figure 1, of which this is the first step, without the permutes.

    Raises:
        UserError: chunks that do not divide the batch, or that the devices do not divide.
    """
    num_rows, devices = len(image_embed), rules.batch_divisor(rules.current_mesh())
    if num_chunks < 1 or num_rows % num_chunks or num_chunks % devices:
        raise UserError(
            f"num_chunks = {num_chunks} must divide the {num_rows} rows and be a multiple of the {devices} devices "
            "of a batch: choose another number"
        )
    ids = jnp.arange(num_rows) if ids is None else ids
    weights = jnp.ones(num_rows, jnp.float32) if weights is None else weights

    def split(x: Array) -> Array:
        """(b, ...) as (chunks, rows, ...), chunks split over the mesh as the batch is."""
        shape = (num_chunks, num_rows // num_chunks, *x.shape[1:])
        return jax.lax.reshape(x, shape, out_sharding=rules.spec("b" + "o" * x.ndim))

    image, text, ids, weights = (split(x) for x in (image_embed, text_embed, ids, weights))
    products = jnp.einsum(
        "bie,bje->bij",
        image.astype(jnp.float32),
        text.astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
        out_sharding=rules.spec("bij"),
    )
    logits = jnp.exp(log_scale) * products + (0.0 if bias is None else bias)
    losses = dense.pair_losses(logits, (ids[:, :, None] == ids[:, None, :]).astype(jnp.float32))
    weights = jax.lax.stop_gradient(weights.astype(jnp.float32))
    return Mean(jnp.sum(weights[:, :, None] * weights[:, None, :] * losses), jnp.sum(weights))
