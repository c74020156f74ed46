"""The contrastive loss behind one function, and which of its implementations suits which sizes."""

import functools
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mmjax.errors import UserError
from mmjax.losses import dense
from mmjax.losses.sigmoid import sigmoid_sum
from mmjax.losses.softmax import softmax_sum
from mmjax.losses.tiles import Examples, Grid, Kernel
from mmjax.parallel import rules
from mmjax.parallel.chips import LANES
from mmjax.parallel.collectives import Gather, Ring, Schedule
from mmjax.parallel.mesh import ring_order
from mmjax.types import Array, Mean

Kind = Literal["sigmoid", "softmax"]
Implementation = Literal["dense", "gather", "ring"]
Choice = Literal["auto", "dense", "gather", "ring"]
KernelChoice = Literal["auto", "xla", "pallas"]

DENSE_BYTES = 32 * 2**20
"""Logits of a device up to which `auto` takes `dense`."""
KERNEL_BYTES = 8 * 2**20
"""And up to which it takes `gather` on TPU: a step of SigLIP B/16 compiles 6 s sooner, and 4 MiB of logits take 0.3 ms
more."""
GATHER_BYTES = 256 * 2**20
"""Columns of all devices and their gradient, on each device, up to which `auto` takes `gather` where it may."""
NORM_TOLERANCE = 2e-2
"""How far the norm of an embedding may be from 1 in debug mode: bfloat16 rounds by up to 0.4%."""

DENSE: dict[Kind, Callable[..., Array]] = {"sigmoid": dense.sigmoid_sum, "softmax": dense.softmax_sum}
TILED: dict[Kind, Callable[..., Array]] = {"sigmoid": sigmoid_sum, "softmax": softmax_sum}

log = logging.getLogger(__name__)


def contrastive(
    image_embed: Array,
    text_embed: Array,
    log_scale: Array,
    bias: Array | None = None,
    ids: Array | None = None,
    weights: Array | None = None,
    *,
    kind: Kind = "sigmoid",
    implementation: Choice = "auto",
    mesh: Mesh | None = None,
    tile: int | None = None,
    kernel: KernelChoice = "auto",
    soft_targets: Array | None = None,
    debug: bool = False,
) -> Mean:
    """The mean over examples of the sigmoid or softmax loss of a global batch, from L2-normalised embeddings (b, e).

    Row i of one side and row j of the other are a pair where their `ids` int (b,) are equal, by default where i = j;
    otherwise `soft_targets` (b, b) in [0, 1], by default 0, say how much of a pair they are. An example of `weights`
    (b,) w counts as w examples, on both sides: 0 masks it, and its embedding may be anything finite. `log_scale` and
    `bias` are scalars; a bias cancels out of a softmax. The formulas and their sources stand in `losses.dense`.
    Embeddings may be bfloat16; logits and sums are float32.

    `implementation`, of equal values and gradients:
        dense: the whole matrix of logits, rows split over the mesh; differentiated by JAX.
        gather: every device fetches all columns, and computes tiles of logits, in a backward pass of its own.
        ring: tiles of columns travel around the mesh; memory grows with neither the mesh nor the logits.
        auto: one of them by sizes; the log says which and why.

    `mesh` is by default the one that is set (`jax.set_mesh`); `tile` is the most rows of a tile, for gather and ring
    (the Pallas kernel rounds it up to 16, and down to what fits); by default it follows from the rows of a device
    (`tiles.xla_tiles`, `tiles.pallas_tiles`). `kernel` is what computes a tile: XLA's fusions, or one Pallas kernel
    (`row_tiles.PallasKernel`), which `auto` takes on TPU where the width is a multiple of 128; on CPU it is
    interpreted, for tests.
    `debug` refuses embeddings that count and whose norm is not 1: when the function runs, if that is compiled.

    Differentiable by the embeddings, `log_scale` and `bias`; all else is constant.

    Raises:
        UserError: shapes that do not fit together or the mesh, a tile that is not positive, an unknown name, a mesh
            while another is set.
    """
    _refuse_names(kind, implementation, kernel, tile)
    weights = None if weights is None else weights.astype(jnp.float32)
    examples = Examples(ids, weights, soft_targets)
    mesh = None if mesh is None or _is_set(mesh) else mesh
    _refuse_shapes(image_embed, text_embed, examples, mesh or rules.current_mesh())
    if debug:
        _check_norms(image_embed, text_embed, weights)
    count = jnp.asarray(len(image_embed), jnp.float32) if weights is None else jnp.sum(weights)
    scalars = jnp.asarray(log_scale, jnp.float32), jnp.asarray(0.0 if bias is None else bias, jnp.float32)
    plan = _Plan(kind, implementation, tile, kernel)
    total = _total if mesh is None else functools.partial(_total_on, mesh)
    return Mean(total(plan, image_embed, text_embed, *scalars, examples), count)


@dataclass(frozen=True)
class _Plan:
    kind: Kind
    implementation: Choice
    tile: int | None
    kernel: KernelChoice


def choose(num_rows: int, width: int, num_devices: int, device_kind: str) -> tuple[Implementation, str]:
    """The implementation for a global batch of `num_rows` embeddings, and the reason in words.

    The simplest whose memory is no burden: `dense` while the logits of a device are small, `gather` while all columns
    are, and otherwise `ring`. On TPU the smallest are for `gather`, whose kernel is compiled sooner than exact products
    of whole matrices, and after `dense` the ring follows at once, since only it sends while it computes. One device has
    nobody to pass tiles to.
    """
    logits = 4 * num_rows * (num_rows // num_devices)
    columns = 2 * 4 * num_rows * width
    on_tpu = device_kind.startswith("TPU")
    if _has_kernel(device_kind, width) and logits <= KERNEL_BYTES:
        return "gather", f"the logits of a device take {_mib(logits)}, at most {_mib(KERNEL_BYTES)}, on TPU"
    if logits <= DENSE_BYTES:
        return "dense", f"the logits of a device take {_mib(logits)}, at most {_mib(DENSE_BYTES)}"
    if num_devices == 1:
        return "gather", f"the logits would take {_mib(logits)}, and one device has all columns"
    if on_tpu:
        return "ring", f"the logits of a device would take {_mib(logits)}, and TPUs send tiles while they compute"
    if columns <= GATHER_BYTES:
        return "gather", f"all columns and their gradient take {_mib(columns)}, at most {_mib(GATHER_BYTES)}"
    return "ring", f"all columns and their gradient would take {_mib(columns)} on every device"


def _total(
    plan: _Plan, image_embed: Array, text_embed: Array, log_scale: Array, bias: Array, examples: Examples
) -> Array:
    """The sum of the loss on the mesh that is set, if any."""
    implementation, axes = _implementation(plan, *image_embed.shape)
    image_embed, text_embed, examples = rules.over_rows((image_embed, text_embed, examples), axes)
    scalars = (log_scale, bias) if plan.kind == "sigmoid" else (log_scale,)
    if implementation == "dense":
        return DENSE[plan.kind](image_embed, text_embed, *scalars, examples)
    mesh, (num_rows, width) = rules.current_mesh(), image_embed.shape
    schedule = _schedule(implementation, axes, rules.axis_sizes(mesh, axes))
    rows = num_rows // schedule.num_devices, width
    grid = Grid.of(mesh, schedule, rows, plan.tile, _kernel(plan.kernel, width))
    return TILED[plan.kind](grid, image_embed, text_embed, *scalars, examples)


def _total_on(mesh: Mesh, plan: _Plan, *args: Any) -> Array:
    """`_total` where `mesh` is given and not set."""
    rows, whole = rules.batch_sharding(mesh), rules.replicated(mesh)
    return _total_set(mesh, plan, *jax.tree.map(lambda x: jax.device_put(x, rows if jnp.ndim(x) else whole), args))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _total_set(mesh: Mesh, plan: _Plan, *args: Any) -> Array:
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return _total(plan, *args)


def _schedule(implementation: Implementation, axes: tuple[str, ...], sizes: tuple[int, ...]) -> Schedule:
    return Ring(axes, ring_order(sizes)) if implementation == "ring" else Gather(axes, math.prod(sizes))


def _implementation(plan: _Plan, num_rows: int, width: int) -> tuple[Implementation, tuple[str, ...]]:
    """Which one, and the mesh axes that its rows are split over."""
    mesh = rules.current_mesh()
    batch_axes, all_axes = rules.row_axes(mesh, num_rows), rules.row_axes(mesh, num_rows, with_tensor=True)
    if plan.implementation != "auto":
        implementation = plan.implementation
    else:
        num_devices = math.prod(rules.axis_sizes(mesh, batch_axes))
        implementation, reason = choose(num_rows, width, num_devices, rules.device_kind(mesh))
        log.info(
            "%s loss of %d embeddings of width %d: %s, since %s", plan.kind, num_rows, width, implementation, reason
        )
    return implementation, batch_axes if implementation == "dense" else all_axes


def _kernel(choice: KernelChoice, width: int) -> Kernel:
    device_kind = rules.device_kind(rules.current_mesh())
    on_tpu = device_kind.startswith("TPU")
    if choice == "pallas" and not on_tpu and device_kind != "cpu":
        raise UserError(f"kernel = 'pallas' of the contrastive loss is for TPU, and here is {device_kind}: use xla")
    return choice if choice != "auto" else "pallas" if _has_kernel(device_kind, width) else "xla"


def _has_kernel(device_kind: str, width: int) -> bool:
    """Whether `auto` takes the Pallas kernel for tiles of embeddings of that width."""
    return device_kind.startswith("TPU") and width % LANES == 0


def _refuse_names(kind: str, implementation: str, kernel: str, tile: int | None) -> None:
    names = (
        ("kind", kind, get_args(Kind)),
        ("implementation", implementation, get_args(Choice)),
        ("kernel", kernel, get_args(KernelChoice)),
    )
    for name, value, known in names:
        if value not in known:
            raise UserError(f"{name} = {value!r} of the contrastive loss is unknown: use one of {', '.join(known)}")
    if tile is not None and tile < 1:
        raise UserError(f"tile = {tile} of the contrastive loss is not positive: give the most rows of a tile")


def _is_set(mesh: Mesh) -> bool:
    """Whether `mesh` is the one that is set, and not none."""
    current = rules.current_mesh()
    if current is not None and current != mesh.abstract_mesh:
        raise UserError("the mesh given to the contrastive loss is not the one that is set: give none, or set that one")
    return current is not None


def _refuse_shapes(image_embed: Array, text_embed: Array, examples: Examples, mesh: rules.AnyMesh | None) -> None:
    if image_embed.ndim != 2 or image_embed.shape != text_embed.shape:
        raise UserError(
            f"image_embed {image_embed.shape} and text_embed {text_embed.shape} of the contrastive loss must both be "
            "(examples, width): give as many texts as images, embedded to the same width"
        )
    num_rows = len(image_embed)
    wanted = ((num_rows,), (num_rows,), (num_rows, num_rows))
    for name, value, shape in zip(Examples._fields, examples, wanted, strict=True):
        if value is not None and value.shape != shape:
            raise UserError(f"{name} of the contrastive loss has shape {value.shape}: it must be {shape}")
    divisor = rules.batch_divisor(mesh)
    if num_rows % divisor:
        raise UserError(
            f"{num_rows} rows of the contrastive loss do not divide over {divisor} devices: pad the batch with rows of "
            "weight 0"
        )


def _check_norms(image_embed: Array, text_embed: Array, weights: Array | None) -> None:
    for embed in (image_embed, text_embed):
        distances = jnp.abs(jnp.linalg.norm(embed.astype(jnp.float32), axis=1) - 1)
        counted = distances if weights is None else jnp.where(weights > 0, distances, 0)
        # A traced value is checked when the function runs, and then the error comes from there.
        jax.debug.callback(_refuse_norm, jnp.max(counted))


def _refuse_norm(distance: Array) -> None:
    if not distance <= NORM_TOLERANCE:
        raise UserError(
            f"an embedding of the contrastive loss has a norm that is {float(distance):.3g} off 1: "
            "divide each by its norm before the loss"
        )


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.0f} MiB"
