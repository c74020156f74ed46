"""The optimizer of a run: clip, direction, decay, rates by rule, schedule, clamps."""

import math
import re
from dataclasses import dataclass, field

import optax

from mmjax.errors import UserError
from mmjax.optim import paths, rules
from mmjax.optim.directions import AdafactorConfig, Optimizer, direction
from mmjax.optim.muon import MuonConfig
from mmjax.optim.rules import DEFAULT_RULES, Rule
from mmjax.optim.schedules import Schedule, ScheduleConfig, make_schedule
from mmjax.optim.transforms import Clamp, add_decay, clamp, scale_by_path
from mmjax.types import Params

CLIP_CLAMPS = (Clamp("log_scale", low=0.0, high=math.log(100)),)
"""Logits scaled by 1 to 100. Upper end: Radford et al. 2021, section 2.5; lower end: open_clip."""


STATISTICS = r"(.*/)?running_(mean|variance)"
STATISTICS_RATE = 0.1
"""How far the running statistics of batch norms go towards those of each batch; PyTorch's default."""


@dataclass(frozen=True)
class OptimConfig:
    """Everything about the update; the hyperparameters that an optimizer does not have are not read.

    `learning_rate` is the schedule's peak. `weight_decay` is decoupled, and multiplied by the learning rate, for every
    optimizer but "adam", which has none. `clip_norm` bounds the global norm of the gradients of trained parameters; 0
    leaves them as they are. `momentum_dtype` is that of the first moment: "bfloat16" halves its memory. `momentum` and
    `nesterov` are those of SGD. Lion's authors use `beta2` 0.99, with a learning rate 3 to 10 times lower and a decay
    as many times higher than AdamW's (Chen et al. 2023, section 5).
    """

    optimizer: Optimizer = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    momentum: float = 0.9
    nesterov: bool = False
    momentum_dtype: str = "float32"
    clip_norm: float = 1.0
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    rules: tuple[Rule, ...] = DEFAULT_RULES
    clamps: tuple[Clamp, ...] = ()
    adafactor: AdafactorConfig = field(default_factory=AdafactorConfig)
    muon: MuonConfig = field(default_factory=MuonConfig)


def make_optimizer(
    config: OptimConfig, params: Params, num_steps: int
) -> tuple[optax.GradientTransformation, Schedule]:
    """The optimizer for `params` (arrays, or shapes alone) over `num_steps` updates, and its learning rate by step.

    With u the optimizer's direction, the update of a parameter p is -lr(t) lr_scale (u + weight_decay decay_scale p),
    then clamped. Running statistics of batch norms go `STATISTICS_RATE` of the way to those of the batch. The state is
    born with the shardings of the parameters: `jax.jit(optimizer.init)(params)`.

    Raises:
        UserError: values that make no sense together, or rules and clamps that do not fit the parameters.
    """
    _check(config)
    assigned = rules.assign(config.rules, params)
    schedule = make_schedule(config.schedule, config.learning_rate, num_steps)
    trained = optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        direction(config),
        add_decay({path: config.weight_decay * rule.decay_scale for path, rule in assigned.items()}),
        scale_by_path({path: rule.lr_scale for path, rule in assigned.items()}),
        optax.scale_by_learning_rate(schedule),
        clamp(config.clamps, params),
    )
    parts = {"trained": trained, "frozen": optax.set_to_zero(), "statistics": optax.sgd(STATISTICS_RATE)}
    return optax.partition(parts, paths.map_leaves(lambda path, _: _part_of(path, assigned[path]), params)), schedule


def _part_of(path: str, rule: Rule) -> str:
    if rule.freeze:
        return "frozen"
    return "statistics" if re.fullmatch(STATISTICS, path) else "trained"


def _check(config: OptimConfig) -> None:
    if config.optimizer == "adam" and config.weight_decay:
        raise UserError("optim.weight_decay has no meaning for adam: use optim.optimizer = 'adamw', or set it to 0")
    for name in ("learning_rate", "weight_decay", "clip_norm"):
        if getattr(config, name) < 0:
            raise UserError(f"optim.{name} = {getattr(config, name)} is negative: set it to 0 or more")
    for name in ("beta1", "beta2", "momentum"):
        if not 0 <= getattr(config, name) < 1:
            raise UserError(f"optim.{name} = {getattr(config, name)} is not in [0, 1): an average needs less than 1")
