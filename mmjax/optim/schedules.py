"""Learning-rate schedules: a factor between 0 and 1 for every step, times the peak learning rate."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, assert_never

import jax.numpy as jnp

from mmjax.errors import UserError
from mmjax.types import Array

Schedule = Callable[[Array | int], Array]
"""From the number of updates already made to the learning rate of the next one, a float32 scalar."""

Shape = Literal["cosine", "linear", "rsqrt", "wsd", "constant"]
WITH_COOLDOWN = ("rsqrt", "wsd")


@dataclass(frozen=True)
class ScheduleConfig:
    """The shape of the learning rate over a run.

    `warmup_steps` go linearly up to the peak. `cosine` and `linear` then fall to `end_factor` of the peak over the rest
    of the run; `rsqrt` falls as the inverse square root with `timescale_steps` and needs no run length; `wsd` stays.
    The last `cooldown_steps` of `rsqrt` and `wsd` go linearly to `end_factor`.
    """

    name: Shape = "cosine"
    warmup_steps: int = 0
    cooldown_steps: int = 0
    timescale_steps: int = 10_000
    end_factor: float = 0.0


def make_schedule(config: ScheduleConfig, peak: float, num_steps: int) -> Schedule:
    """The learning rate as a function of the step t = 0 .. num_steps - 1.

    With W warm-up steps, C cool-down steps, N = num_steps, x = (t - W) / (N - W), end factor e and timescale T:

        warm-up  (t + 1) / W                      for t < W, so that the first update already moves
        cosine   e + (1 - e) (1 + cos(pi x)) / 2
        linear   e + (1 - e) (1 - x)
        rsqrt    sqrt(T / (T + t - W))
        wsd      1
        cool-down  (1 - c) y + c e, c = (t - (N - C)) / C, over the value y above, for t > N - C

    The end is reached at t = N, one past the last update, which would otherwise be wasted when e = 0.

    Sources: cosine, Loshchilov and Hutter 2017, eq. 5; rsqrt with cool-down, Zhai et al. 2022 (Scaling Vision
    Transformers), section 3.5; warm-up, stable, decay, Hu et al. 2024 (MiniCPM), section 4.

    Raises:
        UserError: steps that do not fit in the run, or that the schedule does not have.
    """
    _check(config, num_steps)

    def schedule(step: Array | int) -> Array:
        t = jnp.asarray(step, jnp.float32)
        warm = jnp.minimum(1.0, (t + 1) / max(config.warmup_steps, 1))
        factor = jnp.where(t < config.warmup_steps, warm, _decay(config, t, num_steps))
        return peak * _cool_down(config, factor, t, num_steps)

    return schedule


def _decay(config: ScheduleConfig, t: Array, num_steps: int) -> Array:
    """The factor after warm-up; its value before is not used, but must be finite."""
    after_warmup = jnp.maximum(t - config.warmup_steps, 0.0)
    progress = jnp.minimum(after_warmup / (num_steps - config.warmup_steps), 1.0)
    end = config.end_factor
    match config.name:
        case "cosine":
            return end + (1 - end) * 0.5 * (1 + jnp.cos(jnp.pi * progress))
        case "linear":
            return end + (1 - end) * (1 - progress)
        case "rsqrt":
            return jnp.sqrt(config.timescale_steps / (config.timescale_steps + after_warmup))
        case "wsd" | "constant":
            return jnp.ones_like(t)
        case _:
            assert_never(config.name)


def _cool_down(config: ScheduleConfig, factor: Array, t: Array, num_steps: int) -> Array:
    start = num_steps - config.cooldown_steps
    cooled = jnp.clip((t - start) / max(config.cooldown_steps, 1), 0.0, 1.0) if config.cooldown_steps else 0.0
    return (1 - cooled) * factor + cooled * config.end_factor


def _check(config: ScheduleConfig, num_steps: int) -> None:
    warmup, cooldown = config.warmup_steps, config.cooldown_steps
    if cooldown and config.name not in WITH_COOLDOWN:
        raise UserError(f"optim.schedule.cooldown_steps is for {' and '.join(WITH_COOLDOWN)}, not {config.name}: set 0")
    if config.name == "wsd" and not cooldown:
        raise UserError("optim.schedule.cooldown_steps = 0 leaves wsd without its decay: set it, or use constant")
    if min(warmup, cooldown) < 0 or warmup >= num_steps or warmup + cooldown > num_steps:
        raise UserError(
            f"optim.schedule: {warmup} warm-up and {cooldown} cool-down steps do not fit in train.num_steps = "
            f"{num_steps}: lower optim.schedule.warmup_steps or optim.schedule.cooldown_steps"
        )
