"""The direction of the update, before decay and learning rate: one function for each optimizer."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, assert_never

import optax

from mmjax.optim.muon import muon

if TYPE_CHECKING:
    from mmjax.optim.optimizer import OptimConfig

Optimizer = Literal["adamw", "adam", "lion", "sgd", "adafactor", "muon"]


@dataclass(frozen=True)
class AdafactorConfig:
    """Second moments kept as a row and a column of each matrix; the first moment has OptimConfig's `beta1`, 0 for none.

    `decay_exponent` sets the second moment's averaging to 1 - t^-decay_exponent. The two longest axes are factored if
    both have `min_factored_len`; optax's 128 would keep attention kernels whole, whose head axis is 64. `clip_rms`
    bounds the root mean square of each parameter's update, 0 leaves it; layers that are stacked into one parameter are
    bounded together. `scale_by_parameter` makes steps relative to the parameter's size, as in the first paper (Shazeer
    and Stern 2018); vision transformers do without (Zhai et al. 2022, Scaling Vision Transformers, section 3.4).
    """

    decay_exponent: float = 0.8
    min_factored_len: int = 32
    clip_rms: float = 1.0
    scale_by_parameter: bool = False
    eps: float = 1e-30


def direction(config: "OptimConfig") -> optax.GradientTransformation:
    """What `config.optimizer` makes of the gradients: an ascent direction, not yet scaled by the learning rate.

    Sources: Adam, Kingma and Ba 2015; Lion, Chen et al. 2023, algorithm 2; SGD with momentum, Sutskever et al. 2013;
    Adafactor, Shazeer and Stern 2018; Muon, Jordan 2024.
    """
    match config.optimizer:
        case "adamw" | "adam":
            return _adam(config)
        case "lion":
            return optax.scale_by_lion(config.beta1, config.beta2, mu_dtype=config.momentum_dtype)
        case "sgd":
            return _sgd(config)
        case "adafactor":
            return _adafactor(config)
        case "muon":
            return muon(config.muon, _adam(config), config.eps, config.momentum_dtype)
        case _:
            assert_never(config.optimizer)


def _adam(config: "OptimConfig") -> optax.GradientTransformation:
    return optax.scale_by_adam(config.beta1, config.beta2, config.eps, mu_dtype=config.momentum_dtype)


def _sgd(config: "OptimConfig") -> optax.GradientTransformation:
    if not config.momentum:
        return optax.identity()
    return optax.trace(config.momentum, config.nesterov, accumulator_dtype=config.momentum_dtype)


def _adafactor(config: "OptimConfig") -> optax.GradientTransformation:
    this = config.adafactor
    steps = [
        optax.scale_by_factored_rms(
            decay_rate=this.decay_exponent, min_dim_size_to_factor=this.min_factored_len, epsilon=this.eps
        )
    ]
    if this.clip_rms:
        steps.append(optax.clip_by_block_rms(this.clip_rms))
    if this.scale_by_parameter:
        steps.append(optax.scale_by_param_block_rms())
    if config.beta1:
        steps.append(optax.ema(config.beta1, debias=False, accumulator_dtype=config.momentum_dtype))
    return optax.chain(*steps)
