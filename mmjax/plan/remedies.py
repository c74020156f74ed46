"""What to change in a config whose step does not fit, the cheapest first, as overrides to paste."""

import math
from collections.abc import Mapping

from mmjax.experiment import Experiment


def remedies(experiment: Experiment, mesh: Mapping[str, int]) -> list[str]:
    """Lines `--config.a.b=value`, each with what it costs."""
    model, found = experiment.model, []
    for tower in ("image", "text", "trunk"):
        remat = getattr(getattr(model, tower, None), "remat", None)
        if remat not in (None, "full"):
            found.append(f"--config.model.{tower}.remat=full (computes a layer again: up to a third more time)")
    if mesh["data"] > 1:
        size = mesh["data"] * mesh["fsdp"]
        found.append(f"--config.mesh.data=1 --config.mesh.fsdp={size} (each device keeps a part of the state)")
    rows = experiment.data.batch_size // math.prod((mesh["data"], mesh["fsdp"]))
    parts = experiment.train.accumulate * 2
    if rows % parts == 0 and rows > parts and not model.needs_whole_batch:
        found.append(f"--config.train.accumulate={parts} (half of the rows at a time: up to a third more time)")
    found.append("a topology with more devices, or with more memory on each")
    return found
