"""From dimension letters to mesh axes: the only table of how arrays are split.

A layer names dimensions (`spec("btf")`), never mesh axes. Two rules are told apart: parameters are *stored* split over
`fsdp` and `tensor`, and are *used* split over `tensor` alone. Going from the one to the other is fully sharded data
parallelism: an all-gather before the layer, and a sum of its gradient of which each device keeps its part.
"""

import math
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec, reshard

from mmjax.errors import UserError

AnyMesh = Mesh | AbstractMesh

BATCH_AXES = ("data", "fsdp")
TENSOR_AXIS = "tensor"

COMPUTE_RULES: dict[str, str | tuple[str, ...]] = {
    "b": BATCH_AXES,
    "n": TENSOR_AXIS,
    "k": TENSOR_AXIS,
    "f": TENSOR_AXIS,
    "v": TENSOR_AXIS,
}
STORAGE_RULES: dict[str, str | tuple[str, ...]] = {**COMPUTE_RULES, "d": "fsdp"}


def _spec(dims: str, rules: dict[str, str | tuple[str, ...]]) -> PartitionSpec:
    return PartitionSpec(*(rules.get(letter) for letter in dims))


def spec(dims: str) -> PartitionSpec | None:
    """The compute spec of an array with dimensions `dims`, for `out_sharding`; None where no mesh is set.

    Without a mesh a module is plain single-device JAX, so that a layer can be tried at a prompt.

    Raises:
        ValueError: two of the letters ask for the same mesh axis.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return None
    _refuse_collision(dims)
    return _spec(dims, COMPUTE_RULES)


def storage_spec(
    dims: str, shape: tuple[int, ...], mesh: jax.sharding.Mesh, *, heads: int | None = None
) -> PartitionSpec:
    """The spec under which a parameter of `shape` is stored and updated.

    A width that `fsdp` does not divide is stored whole: that costs memory and is never wrong. So is a vector of that
    width: fetching it would be a collective for a few kilobytes. What `tensor` does not divide would change the
    computation, and is refused; along an axis `n` of `heads` heads side by side that is their number.

    Raises:
        UserError: a dimension does not divide by the `tensor` axis.
    """
    entries = []
    for letter, size in zip(dims, shape, strict=True):
        axis = STORAGE_RULES.get(letter)
        num_parts = heads if letter == "n" and heads is not None else size
        if axis == TENSOR_AXIS and num_parts % mesh.shape[TENSOR_AXIS]:
            raise UserError(tensor_error(letter, num_parts, mesh.shape[TENSOR_AXIS]))
        is_whole = size % mesh.shape["fsdp"] != 0 or dims.removeprefix("l") == letter
        entries.append(None if axis == "fsdp" and is_whole else axis)
    return PartitionSpec(*entries)


def tensor_error(letter: str, size: int, tensor: int) -> str:
    """The line that says which sizes of `mesh.tensor` would work for `size` heads or features."""
    names = {"n": "attention heads", "k": "key-value heads", "f": "feed-forward features", "v": "vocabulary rows"}
    works = ", ".join(str(n) for n in range(1, size + 1) if size % n == 0)
    return f"mesh.tensor = {tensor} does not divide {size} {names[letter]}: set mesh.tensor to one of {works}"


def gather(value: jax.Array, dims: str) -> jax.Array:
    """A stored parameter as the computation wants it: whole over `fsdp`, still split over `tensor`."""
    compute_spec = spec(dims)
    return value if compute_spec is None else reshard(value, compute_spec)


def split_over_tensor(value: jax.Array, dims: str) -> jax.Array:
    """A stored parameter split over `tensor` as the computation wants it, and over `fsdp` as it is."""
    wanted, kept = spec(dims), spec_of(value)
    if wanted is None or kept is None:
        return value
    return reshard(value, PartitionSpec(*(new or old for new, old in zip(wanted, kept, strict=True))))


def without_devices(mesh: AnyMesh) -> AbstractMesh:
    """The axes of `mesh` alone: what is traced under it has no form that is for one kind of device."""
    return AbstractMesh(mesh.axis_sizes, mesh.axis_names, axis_types=mesh.axis_types)


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Rows over `data` and `fsdp`, everything else whole; it fits every array of a batch."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def current_mesh() -> AbstractMesh | None:
    """The mesh that is set, or None."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty else mesh


def device_kind(mesh: AnyMesh | None) -> str:
    """`cpu`, `TPU v5 lite`, ...: what the devices of the mesh are, or of this process where there is none."""
    abstract = None if mesh is None else mesh.abstract_mesh if isinstance(mesh, Mesh) else mesh
    if abstract is None or abstract.abstract_device is None:
        return jax.devices()[0].device_kind
    return abstract.abstract_device.device_kind


def runs_on_cpu() -> bool:
    """Whether the devices of the mesh are CPUs; without a mesh, those that JAX takes."""
    return device_kind(current_mesh()) == "cpu"


def runs_on_tpu() -> bool:
    """Whether the devices of the mesh are TPUs."""
    return device_kind(current_mesh()).startswith("TPU")


def num_tensor_parts() -> int:
    """How many parts heads and features are split into."""
    mesh = current_mesh()
    return 1 if mesh is None else mesh.shape[TENSOR_AXIS]


def runs_on_one_cpu() -> bool:
    """Whether all is computed by one device, and that is a CPU."""
    mesh = current_mesh()
    return runs_on_cpu() and (mesh is None or mesh.size == 1)


def row_axes(mesh: AnyMesh | None, num_rows: int, *, with_tensor: bool = False) -> tuple[str, ...]:
    """The axes that rows are split over: those of the batch; `with_tensor` also `tensor`, where that divides them.

    What is done for each row alone need not be done again by each device of the `tensor` axis.
    """
    if mesh is None:
        return ()
    everywhere = (*BATCH_AXES, TENSOR_AXIS)
    divides = num_rows % math.prod(axis_sizes(mesh, everywhere)) == 0
    return everywhere if with_tensor and divides else BATCH_AXES


def axis_sizes(mesh: AnyMesh | None, axes: tuple[str, ...]) -> tuple[int, ...]:
    """How many devices there are along each of `axes`."""
    return () if mesh is None else tuple(mesh.shape[axis] for axis in axes)


def over_rows(tree: Any, axes: tuple[str, ...]) -> Any:
    """Arrays with their first dimension split over `axes` and the others whole; as they are where no mesh is set."""
    if current_mesh() is None:
        return tree
    return jax.tree.map(lambda x: reshard(x, PartitionSpec(axes)), tree)


def batch_divisor(mesh: AnyMesh | None) -> int:
    """How many ways the batch is split: its size must be a multiple of this."""
    return math.prod(axis_sizes(mesh, BATCH_AXES))


def spec_of(x: jax.Array) -> PartitionSpec | None:
    """How x is split; None where no mesh is set."""
    return None if current_mesh() is None else jax.typeof(x).sharding.spec


def _refuse_collision(dims: str) -> None:
    axes = [COMPUTE_RULES[letter] for letter in dims if letter in COMPUTE_RULES]
    if len(set(axes)) < len(axes):
        raise ValueError(f"dimensions {dims!r} map two letters to one mesh axis; see COMPUTE_RULES")
