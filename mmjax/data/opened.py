"""The sources that the settings of the data name, opened."""

from dataclasses import replace
from typing import NamedTuple

from mmjax.data import photos
from mmjax.data.config import DataConfig
from mmjax.data.mixture import Mixture, Part, PartConfig, tempered
from mmjax.data.records import Source
from mmjax.data.sources.joined import Joined
from mmjax.data.sources.specs import open_source
from mmjax.errors import UserError


def open_split(data: DataConfig, split: str) -> Source:
    """The records of one split of the data source.

    Raises:
        UserError: missing or empty data, an unknown split or key.
    """
    return open_source(
        data.source,
        split,
        image_key=data.image_key,
        text_key=data.text_key,
        locale=data.locale,
        answer_key=data.answer_key,
        regions=data.regions,
    )


class TrainingData(NamedTuple):
    """The records that a run trains on, numbered through the parts that they come from."""

    records: Source
    parts: tuple[Part, ...]

    @property
    def mixture(self) -> Mixture:
        """What a new run reads of them."""
        return Mixture.of(self.parts)


def open_training(data: DataConfig) -> TrainingData:
    """What `data.mixture` names, or `data.source` where it names nothing.

    Raises:
        UserError: as `open_split`; or a part is given twice.
    """
    if data.augment.crops and data.augment.decoder == "turbo":
        photos.libraries()  # That they are missing is said at the start.
    configs = data.mixture or (PartConfig(data.source, data.split),)
    settings = [_settings(data, config) for config in configs]
    names = [_name(part) for part in settings]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"data.mixture has {name} twice: give it once, with the sum of the weights")
    sources = [open_split(part, part.split) for part in settings]
    lengths = [len(source) for source in sources]
    weights = [
        length if config.weight is None else config.weight for length, config in zip(lengths, configs, strict=True)
    ]
    parts = tuple(map(Part, names, lengths, tempered(weights, data.temperature)))
    return TrainingData(sources[0] if len(sources) == 1 else Joined(sources), parts)


def _settings(data: DataConfig, part: PartConfig) -> DataConfig:
    """Those that one part of the mixture is read with."""
    keys = {name: getattr(part, name) for name in ("image_key", "text_key", "locale")}
    given = {name: key for name, key in keys.items() if key is not None}
    return replace(data, source=part.source, split=part.split, **given)


def _name(data: DataConfig) -> str:
    language = f", {data.locale}" if data.source == "emoji" else ""
    return f"{data.source} ({data.split}: {data.image_key or 'no image'}, {data.text_key}{language})"
