"""Configuration of the plain PyTorch form of mmjax's dual encoders.

Part of mmjax, under the Apache License, Version 2.0.
"""

from typing import Any

from transformers import PreTrainedConfig

VIT_FIELDS = (
    *(
        "image_size",
        "image_width",
        "patch_size",
        "width",
        "depth",
        "mlp_dim",
        "num_heads",
        "position",
        "pool",
        "pooler",
    ),
    *("norm", "norm_eps", "embedding_norm", "final_norm", "patch_bias", "activation", "qk_norm"),
    *("stem", "stem_norm", "stem_residual"),
)
RESNET_FIELDS = (
    *("image_size", "image_width", "embedding_dim", "stage_dims", "depths", "layer", "activation"),
    *("downsample_in_first_stage", "downsample_in_bottleneck"),
)
TEXT_FIELDS = (
    *("vocab_size", "context_len", "width", "depth", "mlp_dim", "num_heads", "num_token_types"),
    *("causal", "use_mask", "pool", "pooler", "eos_id"),
    *("norm", "norm_eps", "embedding_norm", "final_norm", "activation", "qk_norm"),
)
IMAGE_FIELDS = {"vit": VIT_FIELDS, "resnet": RESNET_FIELDS}
"""What decides the result of an image tower, by its kind; the names are those of mmjax's own configs."""


class MMJaxConfig(PreTrainedConfig):
    """Two towers and what joins them.

    image_config: the image tower's "kind" and the fields that `IMAGE_FIELDS` lists for it. `image_size` is its rows of
        pixels, `image_width` its columns, None where it is square.
    text_config: the fields of `TEXT_FIELDS`.
    embed_dim: of the shared space.
    image_projection, text_projection: from a tower's width to it: "none", "linear" or "biased".
    has_logit_bias: a learned number is added to every logit.

    Raises:
        ValueError: a field is missing or unknown.
    """

    model_type = "mmjax_dual_encoder"

    def __init__(
        self,
        image_config: Any = None,
        text_config: Any = None,
        embed_dim: int = 768,
        image_projection: str = "none",
        text_projection: str = "biased",
        has_logit_bias: bool = True,
        **kwargs: Any,
    ):
        # The library makes a config without arguments to see what differs from it.
        if image_config is not None:
            kind = image_config.get("kind")
            if kind not in IMAGE_FIELDS:
                raise ValueError(f"image_config.kind is {kind!r}, not one of {', '.join(IMAGE_FIELDS)}")
            _check("image_config", image_config, ("kind", *IMAGE_FIELDS[kind]))
        if text_config is not None:
            _check("text_config", text_config, TEXT_FIELDS)
        self.image_config = image_config
        self.text_config = text_config
        self.embed_dim = embed_dim
        self.image_projection = image_projection
        self.text_projection = text_projection
        self.has_logit_bias = has_logit_bias
        super().__init__(**kwargs)


def _check(name: str, values: dict[str, Any], fields: tuple[str, ...]) -> None:
    for problem, names in (("lacks", set(fields) - values.keys()), ("does not know", values.keys() - set(fields))):
        if names:
            raise ValueError(f"{name} {problem} {', '.join(sorted(names))}")
