"""The preprocessing of images as Hugging Face's image processors have it."""

from collections.abc import Mapping
from typing import Any

from mmjax.data.preprocess import INTERPOLATIONS, PreprocessConfig
from mmjax.errors import UserError
from mmjax.interop.formats import Files, choice, inverted

PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
NAMES = {int(resampling): name for name, resampling in INTERPOLATIONS.items()}
"""Pillow's numbers of interpolations."""


def written(preprocess: PreprocessConfig, image: Any) -> dict[str, Any]:
    """The config of an image processor that gives the model `image` what `preprocess` and normalisation give."""
    height, width = preprocess.image_shape
    crops = preprocess.resize == "crop"
    size = {"shortest_edge": height} if crops else {"height": height, "width": width}
    return {
        "image_processor_type": "CLIPImageProcessor" if crops else "SiglipImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": size,
        "resample": inverted(NAMES)[preprocess.interpolation],
        "do_center_crop": crops,
        **({"crop_size": {"height": height, "width": width}} if crops else {}),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(image.image_mean),
        "image_std": list(image.image_std),
    }


def read(files: Files) -> tuple[PreprocessConfig | None, dict[str, Any]]:
    """The preprocessing that a folder asks for, and the fields of the image tower that say the normalisation.

    Without a file of either name there is none, and the fields are left to their defaults.

    Raises:
        UserError: a resize that ours cannot do.
    """
    config = files.get(PREPROCESSOR) or files.get(PROCESSOR, {}).get("image_processor")
    if not config:
        return None, {}
    fields = {"image_mean": tuple(config["image_mean"]), "image_std": tuple(config["image_std"])}
    return _preprocess(config), fields


def _preprocess(config: Mapping[str, Any]) -> PreprocessConfig:
    interpolation = choice("resample", int(config.get("resample", 3)), NAMES)
    size, crop = config["size"], config.get("crop_size")
    if not config.get("do_center_crop"):
        height, width = (size, size) if isinstance(size, int) else (size.get("height"), size.get("width"))
        if height is None:
            raise _refused(size, crop)
        return PreprocessConfig(height, "squash", interpolation, **({} if height == width else {"image_width": width}))
    side = size if isinstance(size, int) else size.get("shortest_edge")
    crop_height, crop_width = (crop, crop) if not isinstance(crop, Mapping) else (crop["height"], crop["width"])
    if not side == crop_height == crop_width:
        raise _refused(size, crop)
    return PreprocessConfig(side, "crop", interpolation)


def _refused(size: Any, crop: Any) -> UserError:
    return UserError(
        f"images of size {size} cut to {crop} are nothing that data.preprocess can make (it squashes, or scales the "
        "shorter side and cuts a square of that side): take the weights alone, through config.init"
    )
