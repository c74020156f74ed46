"""An exported folder as two functions: images to embeddings, texts to embeddings."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from mmjax.errors import UserError
from mmjax.proof.quiet import quiet_transformers
from mmjax.serving.quantize import QUANTIZATIONS, quantize_linears

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CONFIG_NAME = "config.json"
FACTS_NAME = "mmjax.json"
FINGERPRINTED = ("*.safetensors", "*.json", "*.py", "*.txt", "*.model")
"""All that decides what comes out: weights, configs, tokenizer, preprocessing, code."""
NOT_FINGERPRINTED = (FACTS_NAME, "parity.json")
"""Written about the model, some of it later."""
BLOCK_BYTES = 2**22
TEXT_INPUTS = ("input_ids", "attention_mask")
"""What text towers take of a tokenizer's output; some tokenizers give segments too."""

Rows = Mapping[str, Tensor]
"""Inputs of a tower by name, each (n, ...)."""


@dataclass(frozen=True)
class ModelConfig:
    """Which model is loaded, and how.

    folder: as `python -m mmjax.export --to huggingface` writes it, or `--to mmjax` of a fusion model.
    device: of torch, "cpu" or "cuda".
    dtype: of weights and activations, a key of `DTYPES`; embeddings are float32 always.
    quantize: None, or "int8" for the linear layers (CPU, float32).

    Raises:
        UserError: a value or a combination of them that does not exist.
    """

    folder: Path
    device: str = "cpu"
    dtype: str = "float32"
    quantize: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UserError(f"--dtype {self.dtype} does not exist: choose one of {', '.join(DTYPES)}")
        if self.quantize is not None and self.quantize not in QUANTIZATIONS:
            raise UserError(f"--quantize {self.quantize} does not exist: choose one of {', '.join(QUANTIZATIONS)}")
        if self.quantize is not None and (self.device != "cpu" or self.dtype != "float32"):
            raise UserError(f"--quantize {self.quantize} works on the CPU in float32: leave --device and --dtype out")
        if self.device.partition(":")[0] not in ("cpu", "cuda"):
            raise UserError(f"--device {self.device} does not exist: use cpu, cuda or cuda:N")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise UserError(f"--device {self.device} is not there: use --device cpu, or a torch that sees the GPU")


class Embedder:
    """A dual encoder with its preprocessing. `prepare_*` may run in any thread, `encode_*` in one at a time.

    embed_dim: width e of the embeddings.
    image_size: rows and columns of pixels that the model sees.
    text_len: tokens that it reads; longer texts are cut.
    scale, bias: a logit is `scale * cosine + bias`; bias is None for models without one (CLIP).
    fingerprint: SHA-256 over the files that decide the embeddings.
    """

    feature_dim: int | None = None
    mask_token: str | None = None
    """It takes no regions and fills no masks, as a `FusionModel` may."""

    def __init__(self, model: nn.Module, processor: Any, tokenizer: Any, config: ModelConfig):
        self._model, self._processor, self._tokenizer = model, processor, tokenizer
        self._device, self._dtype = torch.device(config.device), DTYPES[config.dtype]
        self._tokenizer_lock = threading.Lock()  # It keeps padding and truncation as its own state.
        self.config = config
        self.fingerprint = fingerprint(config.folder)
        self.text_len: int = tokenizer.model_max_length
        self.scale, self.bias = _scale_and_bias(model)
        pixels = self.prepare_image(Image.new("RGB", (8, 8)))
        self.image_size: tuple[int, int] = tuple(pixels["pixel_values"].shape[2:])  # type: ignore[assignment]
        self.embed_dim = self.encode_images(pixels).shape[1]
        self.encode_texts(self.prepare_texts(["a"]))  # What cannot encode a text fails at start.

    def prepare_image(self, image: Image.Image) -> Rows:
        """The pixels (1, 3, y, x) of an image of any mode and size, normalised."""
        pixels = self._processor(images=[image], do_convert_rgb=True, return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixels}

    def prepare_texts(self, texts: Sequence[str]) -> Rows:
        """The tokens (n, t) of texts, with their mask where the tokenizer gives one."""
        with self._tokenizer_lock:
            tokens = self._tokenizer(
                list(texts), padding="max_length", truncation=True, max_length=self.text_len, return_tensors="pt"
            )
        return {name: tokens[name] for name in TEXT_INPUTS if name in tokens}

    def encode_images(self, rows: Rows) -> np.ndarray:
        """float32 (n, e), L2-normalised."""
        return self._normalised(self._model.get_image_features, rows)

    def encode_texts(self, rows: Rows) -> np.ndarray:
        """float32 (n, e), L2-normalised."""
        return self._normalised(self._model.get_text_features, rows)

    def _normalised(self, tower: Any, rows: Rows) -> np.ndarray:
        with torch.inference_mode():
            features = tower(**{name: self._placed(x) for name, x in rows.items()}).pooler_output
            return functional.normalize(features.float(), dim=-1).cpu().numpy()

    def _placed(self, x: Tensor) -> Tensor:
        return x.to(self._device, self._dtype if x.is_floating_point() else None)


def load(config: ModelConfig) -> Embedder:
    """The model of a folder, ready to embed.

    Raises:
        UserError: the folder does not hold a dual encoder with its tokenizer and image preprocessing.
    """
    values = read_config(config.folder)
    trust = {"trust_remote_code": True} if "auto_map" in values else {}
    with quiet_transformers(), explained(config.folder):
        model = transformers.AutoModel.from_pretrained(config.folder, dtype=DTYPES[config.dtype], **trust)
        # Always Pillow: where torchvision is installed the library would use it, and its pixels differ.
        processor = transformers.AutoImageProcessor.from_pretrained(config.folder, backend="pil")
        # It reads the model's config too, and would ask on the terminal whether that code may run.
        tokenizer = transformers.AutoTokenizer.from_pretrained(config.folder, **trust)
    for method in ("get_image_features", "get_text_features"):
        if not hasattr(model, method):
            raise UserError(
                f"{config.folder} holds a {type(model).__name__}, not a model of images and texts: {REMEDY}"
            )
    if tokenizer.model_max_length > transformers.tokenization_utils_base.LARGE_INTEGER:
        raise UserError(f"{config.folder}/tokenizer_config.json has no model_max_length: write the text length there")
    model = model.eval().to(config.device)
    return Embedder(quantize_linears(model) if config.quantize else model, processor, tokenizer, config)


REMEDY = "give --model a folder that python -m mmjax.export wrote --to huggingface, or a fusion model --to mmjax"


def fingerprint(folder: Path) -> str:
    """SHA-256, in hexadecimal, over the names and contents of the files that decide the embeddings."""
    digest = hashlib.sha256()
    paths = {path for pattern in FINGERPRINTED for path in folder.glob(pattern)}
    for path in sorted(path for path in paths if path.name not in NOT_FINGERPRINTED):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a folder.

    Raises:
        UserError: there is none that can be read.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise UserError(f"{folder} has no {CONFIG_NAME}: {REMEDY}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): {REMEDY}") from error
    return dict(values)


def _scale_and_bias(model: nn.Module) -> tuple[float, float | None]:
    bias = getattr(model, "logit_bias", None)
    return model.logit_scale.float().exp().item(), None if bias is None else bias.float().item()  # type: ignore


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """What the library says of a folder that it cannot read becomes an error for the user."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise UserError(f"{folder} cannot be loaded ({error}): {REMEDY}") from error
