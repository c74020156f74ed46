"""Ways to run the same training on the same machine, and what they would take by closed forms alone."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mmjax.experiment import Experiment
from mmjax.models.dual_encoder import DualEncoderConfig
from mmjax.nn.stack import ALL
from mmjax.parallel.chips import Chip
from mmjax.plan.figures import closed_form

PARAMETER_BYTES = 12
"""A parameter in float32 with two moments; gradients pass by."""
SAVED = {"full": 1.0, "branches": 3.0, "narrow": 7.0, "none": 16.0}
"""Arrays of a layer's width and positions that are kept of it, beside those of the feed-forward width."""
COMPUTED_AGAIN = {"full": 8 / 12, "branches": 7 / 12, "narrow": 4 / 12, "none": 0.0}
"""Of a layer's forward products, what the backward pass computes again."""
WORKING = 24.0
"""Arrays of a layer's width at the fullest moment of its backward pass."""
REACHED = 0.5
"""Of the peak, that a step reaches: the same for all, so that it ranks none."""
UPDATE_BYTES = 28
"""Of a parameter in the update: itself, two moments and its gradient read, the first three written, in float32."""
WAITED = 0.5
"""Of the time in which split weights are fetched, what nothing hides."""
SCANNED = 1
"""The `unroll` of a stack that is a loop: tried before layers written out, which are guessed equal."""
SLACK = 1.3
"""How far above the limit a guess may be and still be compiled."""


@dataclass(frozen=True)
class Candidate:
    """A mesh, microbatches, what is saved, how the loss is computed, and whether layers are a loop."""

    data: int
    fsdp: int
    tensor: int
    accumulate: int
    remat: str
    implementation: str
    unroll: int

    @property
    def overrides(self) -> tuple[str, ...]:
        """The line to paste."""
        found = [f"--config.mesh.{axis}={getattr(self, axis)}" for axis in ("data", "fsdp", "tensor")]
        found.append(f"--config.train.accumulate={self.accumulate}")
        for tower in ("image", "text"):
            found += [f"--config.model.{tower}.{key}={getattr(self, key)}" for key in ("remat", "unroll")]
        if self.implementation:
            found.append(f"--config.objective.implementation={self.implementation}")
        return tuple(found)


@dataclass(frozen=True)
class Guess:
    candidate: Candidate
    num_bytes: float
    secs: float


def candidates(experiment: Experiment, num_devices: int) -> Iterator[Candidate]:
    """All that the sizes allow, of a dual encoder."""
    model = experiment.model
    assert isinstance(model, DualEncoderConfig)
    heads = math.gcd(*(getattr(model, tower).num_heads for tower in ("image", "text")))
    implementations = ("auto", "dense", "gather", "ring") if hasattr(experiment.objective, "implementation") else ("",)
    for tensor, accumulate, remat in itertools.product((1, 2, 4), (1, 2, 4, 8), SAVED):
        if heads % tensor or num_devices % tensor:
            continue
        for fsdp in _powers(num_devices // tensor):
            rows = num_devices // tensor
            if experiment.data.batch_size % (rows * accumulate) or (model.needs_whole_batch and accumulate > 1):
                continue
            for implementation, unroll in itertools.product(implementations, (SCANNED, ALL)):
                yield Candidate(rows // fsdp, fsdp, tensor, accumulate, remat, implementation, unroll)


def guess(experiment: Experiment, candidate: Candidate, chip: Chip, num_parameters: int) -> Guess:
    """Memory and time of a candidate, roughly: good enough to say what is not worth compiling."""
    model, devices = experiment.model, candidate.data * candidate.fsdp * candidate.tensor
    rows = experiment.data.batch_size / (candidate.data * candidate.fsdp)
    held = PARAMETER_BYTES * num_parameters / (candidate.fsdp * candidate.tensor)
    flops, widest = 0.0, 0.0
    for tower in ("image", "text"):
        config: Any = getattr(model, tower)
        length = config.num_tokens if tower == "image" else config.context_len
        array = 2 * rows / candidate.accumulate * length * config.width
        held += array * config.depth * SAVED[candidate.remat]
        widest = max(widest, WORKING * array / candidate.tensor)
        again = COMPUTED_AGAIN[candidate.remat] + (1 if candidate.accumulate > 1 else 0)
        flops += (3 + again) * experiment.data.batch_size * (closed_form(model, tower) or 0)
    logits = 4 * experiment.data.batch_size * rows if candidate.implementation == "dense" else 0.0
    secs = flops / (REACHED * chip.flops_per_sec * devices) + _sent_secs(experiment, candidate, chip, num_parameters)
    secs += UPDATE_BYTES * num_parameters / (candidate.fsdp * candidate.tensor) / chip.memory_bytes_per_sec
    return Guess(candidate, held + widest + logits, secs)


def _sent_secs(experiment: Experiment, candidate: Candidate, chip: Chip, num_parameters: int) -> float:
    """Gradients once, weights twice where they are split, and what layers give where heads are, over two links."""
    if not chip.link_bytes_per_sec:
        return 0.0
    shared = 2 * 2 * num_parameters / candidate.tensor
    fetched = WAITED * 2 * 2 * num_parameters / candidate.tensor * (candidate.fsdp > 1)
    sent = (shared + fetched) * candidate.accumulate
    if candidate.tensor > 1:
        model: Any = experiment.model
        rows = experiment.data.batch_size / (candidate.data * candidate.fsdp)
        for tower, length in (("image", model.image.num_tokens), ("text", model.text.context_len)):
            config = getattr(model, tower)
            sent += 6 * 2 * 2 * rows * length * config.width * config.depth
    return sent / (2 * chip.link_bytes_per_sec)


def worth_compiling(guesses: list[Guess], limit_bytes: int, count: int) -> list[Guess]:
    """At most `count`: the fastest that may fit, of each way to save one before the second of any."""
    fitting = sorted((one for one in guesses if one.num_bytes <= SLACK * limit_bytes), key=lambda one: one.secs)
    seen: dict[Any, int] = {}
    ranked = []
    for one in fitting:
        kind = (one.candidate.remat, one.candidate.accumulate, one.candidate.tensor)
        seen[kind] = seen.get(kind, 0) + 1
        ranked.append((seen[kind], one.secs, one))
    return [one for _, _, one in sorted(ranked, key=lambda item: item[:2])[:count]]


def _powers(limit: int) -> Iterator[int]:
    """1, 2, 4, ... that divide `limit`."""
    power = 1
    while power <= limit:
        if limit % power == 0:
            yield power
        power *= 2
