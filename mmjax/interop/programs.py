"""`torch.export` programs and ONNX files of an exported Hugging Face folder: the image tower, the text tower, and both.

Inputs are `pixel_values` float32 (b, 3, y, x), normalised, `input_ids` and `attention_mask` int64 (b, t), of any batch
and of the image size and text length of the model; outputs are float32. Each file holds the weights that it uses: those
of each tower are in two files.
"""

import contextlib
import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmjax.errors import UserError
from mmjax.proof.quiet import quiet_transformers

INSTALL = "pip install -r requirements-export.txt"
try:
    import torch
    from torch import Tensor, nn
except ModuleNotFoundError as error:
    raise UserError(f"programs of PyTorch need {error.name}, which is not installed: {INSTALL}") from error

ONE_FILE_BYTES = 2_000_000_000
"""More weights stand beside an ONNX file, in NAME.onnx.data: protobuf holds less than 2 GiB."""
BARS = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 1e-2}
"""The largest difference of a normalised feature from the module's; in half precision about ten roundings of it."""
EXAMPLE_BATCHES = (2, 3)
"""Of images and of texts when a program is traced: apart, or they would be taken for one number, and none of them 1."""
CHECKED_BATCHES = ((1, 1), (3, 4))
"""Of images and of texts when a program is compared with the module."""

OUTPUTS = {
    "image": ("image_embeds",),
    "text": ("text_embeds",),
    "both": ("image_embeds", "text_embeds", "logits_per_image"),
}
"""Of each file."""
IMAGE_PARTS, TEXT_PARTS = ("image", "vision", "visual"), ("text",)
"""How the modules of a tower are called in all three classes, to their first letters."""
TALKATIVE = ("torch.onnx._internal.exporter._registration", "onnxscript.optimizer._constant_folding")
"""Loggers that warn of what is no problem here: torchvision is not installed, and a constant is not folded."""
HARMLESS = (
    (FutureWarning, r"`isinstance\(treespec, LeafSpec\)` is deprecated"),
    (UserWarning, r"# The axis name: .* will not be used, since it shares the same shape constraints"),
)
"""Warnings that the exporter of torch 2.13 causes itself: it copies its own trees, and two inputs have one batch."""

Inputs = dict[str, Tensor]


class ImageProgram(nn.Module):
    """`image_embeds` (b, e), of length 1."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        features = self.model.get_image_features(pixel_values=pixel_values.to(self.model.dtype)).pooler_output
        return {"image_embeds": normalised(features)}


class TextProgram(nn.Module):
    """`text_embeds` (b, e), of length 1; a model that was trained without a mask is given none."""

    def __init__(self, model: Any, uses_mask: bool):
        super().__init__()
        self.model, self.uses_mask = model, uses_mask

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        mask = {"attention_mask": attention_mask} if self.uses_mask else {}
        features = self.model.get_text_features(input_ids=input_ids, **mask).pooler_output
        return {"text_embeds": normalised(features)}


class BothProgram(nn.Module):
    """Both embeddings, and `logits_per_image` (images, texts), whose numbers need not be equal."""

    def __init__(self, model: Any, uses_mask: bool):
        super().__init__()
        self.image, self.text = ImageProgram(model), TextProgram(model, uses_mask)

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        image, text = self.image(pixel_values), self.text(input_ids, attention_mask)
        model = self.image.model
        logits = image["image_embeds"] @ text["text_embeds"].T * model.logit_scale.float().exp()
        bias = getattr(model, "logit_bias", None)
        return {**image, **text, "logits_per_image": logits if bias is None else logits + bias.float()}


def without(model: Any, parts: tuple[str, ...]) -> Any:
    """The same model without the modules whose names begin so; a program keeps the weights of all that it is given."""
    smaller = copy.copy(model)
    smaller._modules = {name: child for name, child in model._modules.items() if not name.startswith(parts)}
    return smaller


def normalised(features: Tensor) -> Tensor:
    """features (b, e) at length 1, float32."""
    return nn.functional.normalize(features.float(), dim=-1)


@dataclass(frozen=True)
class Source:
    """A loaded folder: the model in evaluation mode, and what its inputs are.

    image_shape: rows and columns of pixels.
    uses_mask: the tokenizer gives a mask, so the text tower is given it.
    """

    model: Any
    image_shape: tuple[int, int]
    text_len: int
    vocab_size: int
    uses_mask: bool

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    def programs(self) -> dict[str, nn.Module]:
        """The module of each file, by name."""
        return {
            "image": ImageProgram(without(self.model, TEXT_PARTS)).eval(),
            "text": TextProgram(without(self.model, IMAGE_PARTS), self.uses_mask).eval(),
            "both": BothProgram(self.model, self.uses_mask).eval(),
        }

    def inputs(self, name: str, num_images: int, num_texts: int) -> Inputs:
        """Random inputs of the program called `name`."""
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randn(num_images, 3, *self.image_shape, generator=generator)
        ids = torch.randint(self.vocab_size, (num_texts, self.text_len), generator=generator)
        lengths = torch.randint(1, self.text_len + 1, (num_texts, 1), generator=generator)
        text = {"input_ids": ids, "attention_mask": (torch.arange(self.text_len) < lengths).long()}
        return {"image": {"pixel_values": pixels}, "text": text, "both": {"pixel_values": pixels, **text}}[name]


def load(model_dir: Path) -> Source:
    """The model of a folder that `mmjax.export` wrote: `CLIPModel`, `SiglipModel` or `MMJaxDualEncoder`.

    Raises:
        UserError: it holds one tower only, or is no such folder.
    """
    import transformers

    config, tokenizer = (_read_json(model_dir / name) for name in ("config.json", "tokenizer_config.json"))
    trust = {"trust_remote_code": True} if "auto_map" in config else {}
    with quiet_transformers():
        model = transformers.AutoModel.from_pretrained(model_dir, dtype="auto", **trust).eval()
    if not hasattr(model, "logit_scale"):
        raise UserError(
            f"{model_dir} holds a {type(model).__name__}, and programs are made of dual encoders: export both"
        )
    return Source(
        model,
        image_shape=_image_shape(model.config),
        text_len=tokenizer["model_max_length"],
        vocab_size=_vocab_size(model.config),
        uses_mask="attention_mask" in tokenizer["model_input_names"],
    )


def write_torch_export(model_dir: Path, out: Path) -> None:
    """Writes `image.pt2`, `text.pt2` and `both.pt2` into `out`, each for `torch.export.load`.

    Raises:
        UserError: one of them, loaded again, does not compute what the module does.
    """
    source = load(model_dir)
    for name in source.programs():
        write_torch_export_file(source, name, out / f"{name}.pt2")


def write_torch_export_file(source: Source, name: str, path: Path) -> None:
    """Writes the program called `name`; see `write_torch_export`."""
    torch.export.save(exported(source, name), path)
    check(source, name, torch.export.load(path).module(), path)


def write_onnx(model_dir: Path, out: Path) -> None:
    """Writes `image.onnx`, `text.onnx` and `both.onnx` into `out`; from 2 GB on the weights stand beside each.

    Raises:
        UserError: a library is missing; ONNX Runtime cannot run one of them on CPU, which has no bfloat16; or it does
            not compute what the module does.
    """
    source = load(model_dir)
    for name in source.programs():
        write_onnx_file(source, name, out / f"{name}.onnx")


def write_onnx_file(source: Source, name: str, path: Path) -> None:
    """Writes the program called `name`; see `write_onnx`."""
    with _needed_libraries():
        import onnx.checker
        import onnxruntime
        import onnxscript  # noqa: F401
    if source.dtype == torch.bfloat16:
        raise UserError("ONNX Runtime has no bfloat16 on CPU: export with --dtype float32 (or float16)")
    _save_onnx(source, name, path)
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    check(source, name, runner(session), path)


def exported(source: Source, name: str) -> torch.export.ExportedProgram:
    """The traced program called `name`, its batches dynamic."""
    module, example = source.programs()[name], source.inputs(name, *EXAMPLE_BATCHES)
    with torch.no_grad():
        return torch.export.export(module, (), kwargs=example, dynamic_shapes=_dynamic_shapes(example))


def runner(session: Any) -> Callable[..., dict[str, Tensor]]:
    """An ONNX Runtime session as a function of tensors, its outputs by name."""
    names = [output.name for output in session.get_outputs()]

    def run(**inputs: Tensor) -> dict[str, Tensor]:
        outputs = session.run(names, {name: value.numpy() for name, value in inputs.items()})
        return {name: torch.from_numpy(output) for name, output in zip(names, outputs, strict=True)}

    return run


def check(source: Source, name: str, program: Callable[..., dict[str, Tensor]], path: Path) -> None:
    """Raises UserError where the program in `path` differs from its module by more than `BARS` allow, at any batch."""
    module, bar = source.programs()[name], BARS[source.dtype]
    for batches in CHECKED_BATCHES:
        inputs = source.inputs(name, *batches)
        with torch.no_grad():
            found, expected = program(**inputs), module(**inputs)
        for output in expected.keys() - {"logits_per_image"}:
            distance = (found[output] - expected[output]).abs().max().item()
            if not distance <= bar:
                raise UserError(
                    f"{path.name}: {output} differ from the module's by {distance:.1e} (bar {bar:.0e}) at batch "
                    f"{batches}: export with --to huggingface, or with --dtype float32"
                )


def _dynamic_shapes(example: Inputs) -> dict[str, Any]:
    images, texts = torch.export.Dim("images"), torch.export.Dim("texts")
    return {name: {0: images if name == "pixel_values" else texts} for name in example}


def _save_onnx(source: Source, name: str, path: Path) -> None:
    example = source.inputs(name, *EXAMPLE_BATCHES)
    program = exported(source, name)
    with _quiet_exporter():
        written = torch.onnx.export(
            program,
            (),
            kwargs=example,
            dynamic_shapes=_dynamic_shapes(example),
            input_names=list(example),
            output_names=list(OUTPUTS[name]),
            dynamo=True,
            verbose=False,
        )
    assert written is not None, "without a path the program comes back"
    weights = (value.const_value for value in written.model.graph.initializers.values())
    num_bytes = sum(weight.nbytes for weight in weights if weight is not None)
    written.save(path, external_data=num_bytes > ONE_FILE_BYTES)


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without `HARMLESS` warnings and those of `TALKATIVE` loggers; all others are shown."""
    loggers = [logging.getLogger(name) for name in TALKATIVE]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for category, message in HARMLESS:
            warnings.filterwarnings("ignore", message, category)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextlib.contextmanager
def _needed_libraries() -> Iterator[None]:
    """Raises UserError where what is imported is not there."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f"ONNX files need {error.name}, which is not installed: {INSTALL}") from error


def _image_shape(config: Any) -> tuple[int, int]:
    """Rows and columns of pixels that a model's config says."""
    if hasattr(config, "image_config"):
        size = config.image_config["image_size"]
        return size, config.image_config["image_width"] or size
    return config.vision_config.image_size, config.vision_config.image_size


def _vocab_size(config: Any) -> int:
    text = config.text_config
    return text["vocab_size"] if isinstance(text, dict) else text.vocab_size


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise UserError(f"{path} is missing: give a folder that python -m mmjax.export --to huggingface wrote")
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values
