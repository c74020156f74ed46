"""What a fusion model predicts with: words, classes and features of regions, and answers."""

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmjax.serving.models.inputs import ImageInput, RegionInput, TextInput, zeros
from mmjax.serving.models.layers import ACTIVATIONS, LayerNorm

POOLER_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": functional.relu}


class Transform(nn.Module):
    """norm(activation(x W + b))."""

    def __init__(self, num_inputs: int, num_outputs: int, activation: str, norm_eps: float):
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.dense = nn.Linear(num_inputs, num_outputs)
        self.norm = LayerNorm(num_outputs, norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.activation(self.dense(x)))


class TokenHead(nn.Module):
    """Logits of words: the transform, times the transposed table of tokens, plus a number for each word."""

    def __init__(self, text: SimpleNamespace, width: int, activation: str, norm_eps: float):
        super().__init__()
        self.transform = Transform(width, text.width, activation, norm_eps)
        self.bias = zeros(text.vocab_size)

    def forward(self, x: Tensor, text: TextInput) -> Tensor:
        """x (b, t, d) -> logits (b, t, vocab_size)."""
        return functional.linear(self.transform(x), text.tokens.weight, self.bias)


class RegionHead(nn.Module):
    """One transform, and the numbers that are read from it.

    Tied, it multiplies with the transposed matrix of the region input in place of a matrix of its own.
    """

    def __init__(self, config: SimpleNamespace, width: int, activation: str, norm_eps: float):
        super().__init__()
        self.config = config
        self.transform = Transform(width, width, activation, norm_eps)
        if config.tied:
            ((_, size),) = config.outputs
            self.bias = zeros(size)
            return
        for name, size in config.outputs:
            self.add_module(name, nn.Linear(width, size))

    def forward(self, x: Tensor, inputs: ImageInput) -> dict[str, Tensor]:
        """x (b, p, d) -> for each name (b, p, its size)."""
        hidden = self.transform(x)
        if not self.config.tied:
            return {name: self.get_submodule(name)(hidden) for name, _ in self.config.outputs}
        assert isinstance(inputs, RegionInput), "a tied head stands behind regions"
        ((name, _),) = self.config.outputs
        return {name: hidden @ inputs.features.weight + self.bias}


class Pooler(nn.Module):
    """activation(x W + b) of the first token."""

    def __init__(self, width: int, config: SimpleNamespace):
        super().__init__()
        self.activation = POOLER_ACTIVATIONS[config.activation]
        self.dense = nn.Linear(width, config.width or width)

    def forward(self, x: Tensor) -> Tensor:
        """x (b, t, d) -> (b, e)."""
        return self.activation(self.dense(x[:, 0]))


class AnswerHead(nn.Module):
    """norm(gelu(x W + b)) V + c, twice as wide inside."""

    def __init__(self, width: int, num_answers: int, norm_eps: float):
        super().__init__()
        self.dense = nn.Linear(width, 2 * width)
        self.norm = LayerNorm(2 * width, norm_eps)
        self.out = nn.Linear(2 * width, num_answers)

    def forward(self, pooled: Tensor) -> Tensor:
        """pooled (b, d) -> logits (b, answers)."""
        return self.out(self.norm(functional.gelu(self.dense(pooled))))
