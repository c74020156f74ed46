"""Which checkpoints of a run are made, and which are kept."""

import math
from dataclasses import dataclass
from typing import Any

import orbax.checkpoint as ocp

from mmjax.errors import UserError


@dataclass(frozen=True)
class CheckpointConfig:
    """When the state is saved, and what is kept. The final state is always saved.

    Kept are the last `keep_last` checkpoints, those of every `keep_every_steps` steps (0: none), and the `keep_best`
    with the highest `best_metric`, a number of the evaluations such as "test/retrieval/image_to_text/r@1".
    """

    every_steps: int = 1000
    keep_last: int = 2
    keep_every_steps: int = 0
    keep_best: int = 0
    best_metric: str = ""


def preservation_policy(config: CheckpointConfig) -> Any:
    """What is kept, as Orbax is told.

    Raises:
        UserError: the best are kept, and `config` does not say which metric is best.
    """
    policies = ocp.checkpoint_managers
    kept = [policies.LatestN(config.keep_last)]
    if config.keep_every_steps:
        kept.append(policies.EveryNSteps(config.keep_every_steps))
    if config.keep_best:
        if not config.best_metric:
            raise UserError("checkpoint.keep_best needs to know what is best: set checkpoint.best_metric")
        best = {"n": config.keep_best, "keep_checkpoints_without_metrics": False}
        kept.append(policies.BestN(get_metric_fn=lambda metrics: metrics.get(config.best_metric, -math.inf), **best))
    return policies.AnyPreservationPolicy(kept)
