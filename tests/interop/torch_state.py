"""The weights and the config of `MMJaxDualEncoder` from ours, by hand and apart from any converter."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from mmjax.interop.remote_code import configuration_mmjax as remote
from mmjax.models.dual_encoder import DualEncoder, DualEncoderConfig

Tree = dict[str, Any]
LEAVES = {"kernel": "weight", "scale": "weight", "table": "weight", "running_variance": "running_var"}


def random_params(config: DualEncoderConfig, seed: int = 0) -> Tree:
    """Every weight drawn at random: no bias is 0, no norm the identity, no variance 0."""
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        noise = 0.2 * rng.normal(size=leaf.shape)
        values = {"scale": 1 + noise, "running_variance": 1 + abs(noise)}.get(path[-1].key, noise)
        return np.asarray(values, np.float32)

    model = nnx.eval_shape(lambda: DualEncoder(config, jax.random.key(seed)))
    return jax.tree_util.tree_map_with_path(draw, nnx.to_pure_dict(nnx.state(model)))


def config_values(config: DualEncoderConfig) -> Tree:
    """The arguments of `MMJaxConfig`."""
    kind = type(config.image).__name__.removesuffix("Config").lower()
    return {
        "image_config": {"kind": kind} | {name: getattr(config.image, name) for name in remote.IMAGE_FIELDS[kind]},
        "text_config": {name: getattr(config.text, name) for name in remote.TEXT_FIELDS},
        "embed_dim": config.embed_dim,
        "image_projection": config.image_projection,
        "text_projection": config.text_projection,
        "has_logit_bias": config.logit_bias is not None,
    }


def torch_state(params: Tree, config: DualEncoderConfig) -> dict[str, np.ndarray]:
    """The state dict of `MMJaxDualEncoder`."""
    state = {}
    for path, array in _leaves(params):
        if path == "image/stem/projection/kernel" and getattr(config.image, "stem", None) == "patch":
            array = array.reshape(config.image.patch_size, config.image.patch_size, 3, -1)
        if path == "text/tokens/table":
            array = array[: config.text.vocab_size]
        state[_name(path)] = np.array(_laid_out(path, array), order="C")
    return state


def save_plain_form(config: DualEncoderConfig, params: Tree, folder: Path) -> Path:
    """The folder of `MMJaxDualEncoder` with these weights, and with the code that loads it."""
    import torch

    from mmjax.interop.remote_code.modeling_mmjax import MMJaxDualEncoder

    model = MMJaxDualEncoder(remote.MMJaxConfig(**config_values(config)))
    state = {name: torch.from_numpy(array) for name, array in torch_state(params, config).items()}
    model.load_state_dict(state, strict=True)
    remote.MMJaxConfig.register_for_auto_class()
    MMJaxDualEncoder.register_for_auto_class("AutoModel")
    model.save_pretrained(folder)
    return folder


@contextlib.contextmanager
def module_cache(folder: Path) -> Iterator[None]:
    """Remote code is copied into `folder`, before the library imports it, and not into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(folder))
        patch.setattr("sys.path", [*sys.path])
        _forget_remote_code()
        yield
    _forget_remote_code()


def _forget_remote_code() -> None:
    """What was imported from one cache would be looked for in it for ever."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
        del sys.modules[name]


def _leaves(tree: Tree, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Every array by its path, those of a stack layer by layer."""
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if key == "blocks":
            for layer in range(len(value["attention_norm"]["scale"])):
                rows = jax.tree.map(lambda array, layer=layer: array[layer], value)
                yield from _leaves(rows, f"{path}/{layer}/")
        elif isinstance(value, dict):
            yield from _leaves(value, f"{path}/")
        else:
            yield path, value


def _name(path: str) -> str:
    *front, leaf = path.split("/")
    return "logit_scale" if path == "log_scale" else ".".join([*front, LEAVES.get(leaf, leaf)])


def _laid_out(path: str, array: np.ndarray) -> np.ndarray:
    *_, owner, leaf = ["", *path.split("/")]
    enters_heads = owner in ("query", "key", "value")
    if leaf == "bias" and enters_heads:
        return array.reshape(-1)
    if leaf != "kernel":
        return array
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    return (array.reshape(len(array), -1) if enters_heads else array.reshape(-1, array.shape[-1])).T
