"""int8 linear layers for the CPU."""

import warnings

import torch
from torch import nn

from mmjax.errors import UserError

QUANTIZATIONS = ("int8",)


def quantize_linears(model: nn.Module) -> nn.Module:
    """A copy of the model whose `nn.Linear` layers hold int8 weights and quantise their inputs row by row as they run.

    Weights: one scale a tensor. Attention pooling (`nn.MultiheadAttention`), embeddings, norms and convolutions stay as
    they are. PyTorch calls this form deprecated and points to torchao; but the layers of torchao 0.18 are many times
    slower than float32 on a CPU without VNNI (docs/serving.md), and requirements-serving.txt bounds PyTorch.

    Raises:
        UserError: this build of PyTorch has no int8 kernels for the processor.
    """
    if torch.backends.quantized.engine == "none":
        raise UserError("this PyTorch has no int8 kernels for this processor: leave --quantize out")
    with warnings.catch_warnings():
        for message in ("torch.ao.quantization is deprecated", "torch.quantize_per_tensor"):
            warnings.filterwarnings("ignore", message)
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
