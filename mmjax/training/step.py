"""One training step as a pure function of state and batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from mmjax.objectives.base import Objective
from mmjax.training.gradients import make_gradient
from mmjax.training.state import TrainState
from mmjax.types import Array, Batch, Loss, Params

Metrics = dict[str, Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


@dataclass(frozen=True)
class TrainConfig:
    """How long and how a run is trained."""

    num_steps: int = 1000
    seed: int = 0
    accumulate: int = 1
    """Microbatches a step: their activations are in memory one at a time; the gradient is that of the whole batch."""
    ema_decay: float = 0.0
    """Decay of the moving average of the parameters, in [0, 1); 0 keeps none."""
    nonfinite: Literal["stop", "skip"] = "stop"
    """What a non-finite loss or gradient does: end the run, or leave out the update and count it."""


def make_train_step(
    graphdef: nnx.GraphDef,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    config: TrainConfig,
) -> TrainStep:
    """The step function, to be compiled with its state donated."""
    gradient = make_gradient(graphdef, objective, config.accumulate)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        grads, loss, objective_state = gradient(state.params, batch, state.objective, key)
        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            ema = average(state.ema, params, config.ema_decay, state.step)
        proposed = TrainState(state.step + 1, params, opt_state, ema, objective_state, state.skipped)
        with jax.named_scope("metrics"):
            metrics = measure(loss, grads, proposed, schedule(state.step))
        if config.nonfinite == "skip":
            proposed = skip_unless(is_finite(metrics), proposed, state)
            metrics |= {"skipped": proposed.skipped}
        return proposed, metrics

    return train_step


def average(ema: Params, params: Params, decay: float, step: Array) -> Params:
    """decay * ema + (1 - decay) * params; the decay grows as (1 + step) / (10 + step) until it reaches its value, so
    that the first average is not the initialisation."""
    decay_now = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda e, p: e + (1.0 - decay_now) * (p - e), ema, params if ema else {})


def measure(loss: Loss, grads: Params, state: TrainState, learning_rate: Array) -> Metrics:
    """Scalars of one step: the loss and its terms, norms, scale and bias, learning rate."""
    metrics = {
        "loss": loss.total.value,
        **{f"loss/{name}": term.value for name, term in loss.terms.items()},
        "grad_norm": optax.tree.norm(grads),
        "param_norm": optax.tree.norm(state.params),
        "learning_rate": jnp.asarray(learning_rate, jnp.float32),
    }
    if "log_scale" in state.params:
        metrics["logit_scale"] = jnp.exp(state.params["log_scale"])
    if "logit_bias" in state.params:
        metrics["logit_bias"] = state.params["logit_bias"]
    return metrics


def is_finite(metrics: Metrics) -> Array:
    """True where loss and gradient norm are finite: any non-finite gradient makes its norm so."""
    return jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])


def skip_unless(keep: Array, proposed: TrainState, old: TrainState) -> TrainState:
    """`proposed` where `keep`; else the old state, with the step counted and the skip too."""
    chosen: Any = jax.tree.map(lambda new, old: jnp.where(keep, new, old), proposed, old)
    return chosen._replace(step=proposed.step, skipped=old.skipped + jnp.where(keep, 0, 1))
