"""Rows that lie on other devices: each device is sent the rows that it asks for, and no array is ever whole anywhere.

Indexing an array whose rows are split makes XLA gather all of it on every device. Here the devices tell each other
which rows they want, and the rows come in rounds: in one all-to-all every device sends each other one `capacity` rows.
Rounds go on until all have everything, so that the result is exact whatever is asked for; of rows chosen at random one
round is enough most often. The gradient goes back the same way.

`jax.lax.ragged_all_to_all` would send no padding. But XLA for CPU does not have it, that for TPU refuses it on larger
slices of v5e, and it needs room for all that a device sends, which may be the whole batch.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from mmjax.parallel import rules
from mmjax.types import Array

Rows = list[Array]
"""Arrays (n, ...) of the n rows of a device."""


class Plan(NamedTuple):
    """What one device sends and what it gets, a row in a slot of a round.

    asked: int32 (devices, rounds, capacity), the own row that each device wants; 0 in slots that are not used.
    owner, turn, slot: int32 (n,), the device, round and slot from which each row comes; equal rows share one slot.
    num_rounds: int32 (1,), after how many rounds every device has everything.
    """

    asked: Array
    owner: Array
    turn: Array
    slot: Array
    num_rounds: Array


def take_rows(tree: Any, indices: Array) -> Any:
    """`x[indices]` of each array x (b, ...) in `tree`, all with their rows split as those of a batch are.

    `indices` int32 (b,), each in [0, b). In a round a device sends each device of the batch axes `capacity` rows; those
    of the `tensor` axis have the same rows, and do the same. A row that a device wants several times is sent to it
    once, and so is the sum of its cotangents; sums are made in float32, or the array's own type if that is wider.
    Arrays that differ in their second dimension alone travel together. Without a mesh it is plain indexing.
    """
    if rules.batch_divisor(rules.current_mesh()) == 1:
        return jax.tree.map(lambda x: _index(x, indices), tree)
    tree, indices = rules.over_rows((tree, indices), rules.BATCH_AXES)
    leaves, structure = jax.tree.flatten(tree)
    taken = _together(lambda rows: _take(rows, indices), leaves)
    return jax.tree.unflatten(structure, taken)


def capacity(num_rows: int, num_devices: int) -> int:
    """How many rows a device sends another in a round, of `num_rows` that each asks for.

    Chosen at random, num_rows / num_devices are asked for on average, with a standard deviation below the root of that;
    three of them above, one round is enough most often.
    """
    mean = num_rows / num_devices
    return min(num_rows, math.ceil(mean + 3 * math.sqrt(mean)))


def _index(x: Array, indices: Array) -> Array:
    """`x[indices]` where all rows are on one device; in float32 for the sake of the sums in its gradient."""
    wide = jnp.asarray(x, _sum_type(x) if jnp.issubdtype(x.dtype, jnp.floating) else None)
    return wide.at[indices].get(out_sharding=rules.spec("b" + "o" * (x.ndim - 1))).astype(x.dtype)


def _sum_type(x: Array) -> Any:
    return jnp.promote_types(x.dtype, jnp.float32)


def _together(function: Callable[[Rows], Rows], leaves: Rows) -> Rows:
    """`function` of arrays (b, ...), those that differ in their second dimension alone joined to one for the time."""
    wide = [x[:, None] if x.ndim == 1 else x for x in leaves]
    kinds = [(x.dtype, x.shape[2:]) for x in wide]
    groups = [[place for place, kind in enumerate(kinds) if kind == group] for group in dict.fromkeys(kinds)]
    results = function([jnp.concatenate([wide[place] for place in group], axis=1) for group in groups])
    parts: dict[int, Array] = {}
    for group, result in zip(groups, results, strict=True):
        ends = np.cumsum([wide[place].shape[1] for place in group])[:-1]
        parts.update(zip(group, jnp.split(result, ends, axis=1), strict=True))
    return [parts[place][:, 0] if x.ndim == 1 else parts[place] for place, x in enumerate(leaves)]


@jax.custom_vjp
def _take(leaves: Rows, indices: Array) -> Rows:
    return _on_each_device(_fetch, leaves, indices)[0]


def _forward(leaves: Rows, indices: Array) -> tuple[Rows, Plan]:
    return _on_each_device(_fetch, leaves, indices)


def _backward(plan: Plan, cotangents: Rows) -> tuple[list[Array | None], None]:
    differentiable = [x.dtype != jax.dtypes.float0 for x in cotangents]
    sums = iter(_on_each_device(_give_back, [x for x, d in zip(cotangents, differentiable, strict=True) if d], plan))
    return [next(sums) if d else None for d in differentiable], None


_take.defvjp(_forward, _backward)


def _on_each_device(function: Callable[..., Any], *args: Any) -> Any:
    """`function` run by each device on its rows of all arrays."""
    rows = P(rules.BATCH_AXES)
    return jax.shard_map(function, mesh=rules.current_mesh(), in_specs=rows, out_specs=rows, check_vma=False)(*args)


def _fetch(leaves: Rows, indices: Array) -> tuple[Rows, Plan]:
    """The rows that this device wants of all devices' `leaves`, and the plan by which they came."""
    plan = _plan(indices)

    def one_round(turn: Array, taken: Rows) -> Rows:
        arrived = [_swap(x[plan.asked[:, turn]])[plan.owner, plan.slot] for x in leaves]
        now = plan.turn == turn
        return [
            jnp.where(jnp.expand_dims(now, range(1, x.ndim)), x, old) for x, old in zip(arrived, taken, strict=True)
        ]

    return _rounds(plan, one_round, [jnp.zeros_like(x) for x in leaves]), plan


def _give_back(cotangents: Rows, plan: Plan) -> Rows:
    """The transpose of `_fetch`: the sums of the cotangents of this device's rows on all devices."""
    num_devices, _, room = plan.asked.shape

    def one_round(turn: Array, sums: Rows) -> Rows:
        # A slot beyond the last is dropped.
        slot = jnp.where(plan.turn == turn, plan.slot, room)
        empty = [jnp.zeros((num_devices, room, *x.shape[1:]), _sum_type(x)) for x in cotangents]
        sent = [x.at[plan.owner, slot].add(new, mode="drop") for x, new in zip(empty, cotangents, strict=True)]
        arrived = [_swap(x.astype(new.dtype)) for x, new in zip(sent, cotangents, strict=True)]
        return [old.at[plan.asked[:, turn]].add(x) for old, x in zip(sums, arrived, strict=True)]

    sums = _rounds(plan, one_round, [jnp.zeros(x.shape, _sum_type(x)) for x in cotangents])
    return [total.astype(x.dtype) for total, x in zip(sums, cotangents, strict=True)]


def _plan(indices: Array) -> Plan:
    num_rows, num_devices = len(indices), jax.lax.axis_size(rules.BATCH_AXES)
    room = capacity(num_rows, num_devices)
    place = _places(indices, indices // num_rows)
    # Small beside rows, and every device sees from it alone how many rounds there are.
    wanted, places = jnp.unstack(jax.lax.all_gather(jnp.stack([indices, place]), rules.BATCH_AXES), axis=1)
    owners, rows = jnp.divmod(wanted, num_rows)
    turns, slots = jnp.divmod(places, room)
    here = jax.lax.axis_index(rules.BATCH_AXES)
    device = jnp.where(owners == here, jnp.arange(num_devices)[:, None], num_devices)
    empty = jnp.zeros((num_devices, math.ceil(num_rows / room), room), jnp.int32)
    asked = empty.at[device, turns, slots].set(rows, mode="drop")
    return Plan(asked, owners[here], turns[here], slots[here], jnp.max(turns, keepdims=True)[0] + 1)


def _places(indices: Array, owner: Array) -> Array:
    """The place of each row among the different rows that are wanted of its owner, int32 (n,)."""
    order = jnp.argsort(indices)
    ordered, owners = indices[order], owner[order]
    count = jnp.cumsum(jnp.diff(ordered, prepend=ordered[:1]) > 0)
    first = jnp.searchsorted(owners, owners)
    return jnp.zeros_like(indices).at[order].set(count - count[first])


def _swap(x: Array) -> Array:
    """(devices, ...): what each device has for this one, from what each has for each."""
    return jax.lax.all_to_all(x, rules.BATCH_AXES, 0, 0, tiled=True)


def _rounds(plan: Plan, one_round: Callable[[Array, Rows], Rows], start: Rows) -> Rows:
    """`one_round` of each turn, as many as there are."""
    return jax.lax.fori_loop(0, plan.num_rounds[0], one_round, start)
