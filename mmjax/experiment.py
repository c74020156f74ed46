"""The whole experiment as one typed config; only the entry points see it whole."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import ml_collections

from mmjax import config
from mmjax.data.config import DataConfig
from mmjax.data.shapes import row_shapes
from mmjax.errors import UserError
from mmjax.evals.zero_shot import ZeroShotConfig
from mmjax.interop.imports import InitConfig
from mmjax.models.base import ModelConfig
from mmjax.objectives.base import ObjectiveConfig
from mmjax.objectives.contrastive import ContrastiveConfig
from mmjax.optim.optimizer import OptimConfig
from mmjax.parallel.hub import ProcessesConfig
from mmjax.parallel.mesh import MeshConfig
from mmjax.parallel.rules import batch_divisor
from mmjax.training.logs import LogsConfig
from mmjax.training.retention import CheckpointConfig
from mmjax.training.step import TrainConfig

NOTHING_TO_SCORE = "the model neither embeds images and texts in one space nor says anything of a pair"


@dataclass(frozen=True)
class EvalsConfig:
    """What is evaluated, and when; the final state always is.

    `splits` are splits of `data.source`, and the first one is the headline. `zero_shot` classification is left out
    where it is None, and of data whose records name no class. `num_candidates` of the towers are put in order by the
    fusion, of models that have one, with `match_weight` on what it says beside the towers; where towers have no common
    space it chooses among as many.
    """

    splits: tuple[str, ...] = ()
    every_steps: int = 0
    batch_size: int = 256
    zero_shot: ZeroShotConfig | None = None
    num_candidates: int = 16
    match_weight: float = 1.0


@dataclass(frozen=True)
class PlanConfig:
    """The machine that a config is meant for, which `python -m mmjax.plan` compiles it for; training does not read it.

    topology: such as "v5e:16x16", "h100:8" or "cpu:8"; "" for none.
    num_slices: of that, joined by the slower network.
    """

    topology: str = ""
    num_slices: int = 1


@dataclass(frozen=True)
class Experiment:
    """Everything that decides a run."""

    model: ModelConfig
    data: DataConfig
    init: InitConfig = InitConfig()
    objective: ObjectiveConfig = ContrastiveConfig()
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = TrainConfig()
    mesh: MeshConfig = MeshConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evals: EvalsConfig = EvalsConfig()
    logs: LogsConfig = field(default_factory=LogsConfig)
    processes: ProcessesConfig = ProcessesConfig()
    plan: PlanConfig = PlanConfig()

    def to_config_dict(self) -> ml_collections.ConfigDict:
        """What `get_config()` of a config file returns."""
        return config.to_config_dict(self)

    def to_dict(self) -> dict[str, Any]:
        """What is kept with the run, as JSON."""
        return config.to_dict(self)


def from_values(values: Mapping[str, Any]) -> Experiment:
    """The experiment from a ConfigDict or from the JSON of a run.

    Raises:
        UserError: an unknown key, a wrong type, or parts that do not fit together.
    """
    plain = values.to_dict() if isinstance(values, ml_collections.ConfigDict) else values
    experiment = config.from_dict(Experiment, plain)
    _check_parts(experiment)
    return experiment


def check_mesh(experiment: Experiment, mesh: jax.sharding.Mesh) -> None:
    """Refuses a batch that the mesh and the microbatches do not divide.

    Raises:
        UserError: with the nearest batch sizes that work.
    """
    batch_size, divisor = experiment.data.batch_size, batch_divisor(mesh) * experiment.train.accumulate
    if batch_size % divisor:
        below, above = batch_size // divisor * divisor, (batch_size // divisor + 1) * divisor
        nearest = f"{below} or {above}" if below else f"{above}"
        raise UserError(
            f"data.batch_size = {batch_size} does not divide by {divisor} (mesh.data {mesh.shape['data']} x mesh.fsdp "
            f"{mesh.shape['fsdp']} x train.accumulate {experiment.train.accumulate}): set it to {nearest}"
        )


def _check_parts(experiment: Experiment) -> None:
    """Sizes that two parts state are equal, sizes are positive, and what one part uses another one gives."""
    data, model = experiment.data, experiment.model
    _check_images(experiment)
    if data.text_len != model.text_len and not (model.takes_shorter_texts and data.text_len < model.text_len):
        remedy = "make it no longer than that" if model.takes_shorter_texts else "make them equal"
        raise UserError(f"data.text_len = {data.text_len} but model.text.context_len = {model.text_len}: {remedy}")
    if model.needs_whole_batch and experiment.train.accumulate > 1:
        raise UserError(
            f"a batch norm in model.image needs the whole batch at once, but train.accumulate = "
            f"{experiment.train.accumulate}: set it to 1, or stem_norm to 'group' where the tower has that choice"
        )
    if data.num_words < 0:
        raise UserError(f"data.num_words = {data.num_words} is negative: set it to 0 or more")
    if data.num_words < experiment.objective.num_words:
        raise UserError("objective.overlap_target compares words: set data.num_words, to 24 for short captions")
    experiment.objective.check_model(model)
    _check_fields(data, experiment.objective.fields(model))
    if experiment.evals.splits and not (model.embeds or model.fuses):
        raise UserError(f"evals.splits = {experiment.evals.splits}, but {NOTHING_TO_SCORE}: leave evals.splits out")
    positive = {"data.batch_size": data.batch_size, "train.accumulate": experiment.train.accumulate}
    for key, value in positive.items():
        if value < 1:
            raise UserError(f"{key} = {value} must be at least 1: correct it")


def _check_images(experiment: Experiment) -> None:
    """The data has the pixels or the regions that the model looks at."""
    data, model = experiment.data, experiment.model
    if model.region_dim is not None and data.regions is None:
        raise UserError("model.image looks at regions: set data.regions to a RegionsConfig, or model.image to patches")
    if data.regions is None:
        if model.image_shape is not None:
            _check_image_shape(data.preprocess.image_shape, model.image_shape)
            if not data.image_key:
                raise UserError("model.image looks at pixels, but data.image_key is '': name the feature with images")
        return
    if model.image_shape is not None:
        raise UserError("data.regions stands in place of pixels, but model.image looks at pixels: set it to None")
    if model.region_dim is not None and data.regions.feature_dim != model.region_dim:
        raise UserError(
            f"data.regions.feature_dim = {data.regions.feature_dim} but model.image.feature_dim = {model.region_dim}: "
            "make them equal"
        )


def _check_fields(data: DataConfig, wanted: Mapping[str, int | None]) -> None:
    """The data gives what the objective reads."""
    shapes = row_shapes(data)
    for name, size in wanted.items():
        if name not in shapes:
            settings = {"answers": "data.answer_key", "follows": "data.captions.pair"}
            where = settings.get(name, f"a target {name.removeprefix('region_')!r} of data.regions")
            raise UserError(f"objective reads {name}: set {where}, or leave the term out")
        if size is not None and shapes[name][0][-1] != size:
            raise UserError(
                f"objective compares {name} of {shapes[name][0][-1]} numbers with a head of {size}: make them equal"
            )


def _check_image_shape(preprocessed: tuple[int, int], wanted: tuple[int, int]) -> None:
    for name, given, expected in zip(("image_size", "image_width"), preprocessed, wanted, strict=True):
        if given != expected:
            raise UserError(f"data.preprocess.{name} = {given} but model.image.{name} = {expected}: make them equal")
