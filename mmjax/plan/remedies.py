"""What to change in a config whose step does not fit, the cheapest first, as overrides to paste."""

import math
from collections.abc import Mapping

from mmjax.experiment import Experiment


def remedies(experiment: Experiment, mesh: Mapping[str, int]) -> list[str]:
    """Lines `--config.a.b=value`, each with what it costs."""
    model, found = experiment.model, []
    for name, part in vars(model).items():
        if getattr(part, "remat", "full") != "full":
            found.append(f"--config.model.{name}.remat=full (computes a layer again: up to a third more time)")
    rows = mesh["data"] * mesh["fsdp"]
    size = _largest_split(experiment, rows)
    if size > mesh["fsdp"]:
        split = f"--config.mesh.data={rows // size} --config.mesh.fsdp={size}"
        found.append(f"{split} (each device keeps 1/{size * mesh['tensor']} of the state)")
    of_device = experiment.data.batch_size // rows
    parts = experiment.train.accumulate * 2
    if of_device % parts == 0 and of_device > parts and not model.needs_whole_batch:
        found.append(f"--config.train.accumulate={parts} (half of the rows at a time: up to a third more time)")
    found.append("a topology with more devices, or with more memory on each")
    return found


def _largest_split(experiment: Experiment, rows: int) -> int:
    """The most parts of a state over `rows` devices: what does not divide a width is stored whole on each."""
    widths = [getattr(getattr(experiment.model, tower, None), "width", 0) for tower in ("image", "text")]
    return math.gcd(rows, *widths)
