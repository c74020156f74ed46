"""Shapes and types of a row of a batch, before there is one."""

import numpy as np

from mmjax.data import regions
from mmjax.data.config import DataConfig
from mmjax.data.regions import Shapes


def row_shapes(config: DataConfig) -> Shapes:
    """All fields of a training row."""
    shapes: Shapes = {
        **image_shapes(config),
        "text_ids": ((config.text_len,), np.dtype(np.int32)),
        "text_mask": ((config.text_len,), np.dtype(np.bool_)),
        "ids": ((), np.dtype(np.int32)),
        "weights": ((), np.dtype(np.float32)),
        **target_shapes(config),
    }
    if config.num_words:
        shapes["words"] = (config.num_words,), np.dtype(np.int32)
    if config.word_starts:
        shapes["word_starts"] = (config.text_len,), np.dtype(np.bool_)
    if config.captions.pair:
        shapes["token_types"] = (config.text_len,), np.dtype(np.int32)
        shapes["follows"] = (), np.dtype(np.int32)
    if config.answer_key:
        shapes["answers"] = (), np.dtype(np.int32)
    return shapes


def image_shapes(config: DataConfig) -> Shapes:
    """The fields that stand for a row's image; none of texts alone."""
    if config.regions is not None:
        return regions.input_shapes(config.regions)
    if not config.image_key:
        return {}
    return {"image": ((*config.preprocess.image_shape, 3), np.dtype(np.uint8))}


def target_shapes(config: DataConfig) -> Shapes:
    """The fields of a training row that an objective wants of its image beside them."""
    return {} if config.regions is None else regions.target_shapes(config.regions)
