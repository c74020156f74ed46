"""What a fusion model predicts with: words, classes and features of regions, whether a pair matches, and answers."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jax.nn import initializers

from mmjax.models.fusion.image_input import ImageInput
from mmjax.models.fusion.regions import RegionInput
from mmjax.models.fusion.text_input import TextInput
from mmjax.nn.linear import Linear
from mmjax.nn.mlp import ACTIVATIONS, Activation
from mmjax.nn.module import Module
from mmjax.nn.norm import LayerNorm
from mmjax.nn.parameter import BERT_INIT, parameter, weight
from mmjax.parallel import rules
from mmjax.types import Array, Key

PoolerActivation = Literal["tanh", "relu"]


@dataclass(frozen=True)
class RegionHeadConfig:
    """One transform, and the numbers that are read from it.

    outputs: names, each with how many numbers it has; "features" and their like are predicted as they are, classes as
        logits.
    tied: multiplies with the transposed matrix of the region input in place of a matrix of its own; its one output has
        as many numbers as the features (UNITER).
    """

    outputs: tuple[tuple[str, int], ...]
    tied: bool = False


@dataclass(frozen=True)
class PoolerConfig:
    """activation(x W + b) of a stream's first token.

    streams: which of them have one, each its own.
    width: of what is pooled; 0 is that of the stream.
    """

    streams: tuple[Literal["text", "image"], ...] = ("text",)
    activation: PoolerActivation = "tanh"
    width: int = 0


@dataclass(frozen=True)
class HeadsConfig:
    """Which heads a model has.

    tokens: a word for each token of the text, through the transposed table of tokens.
    num_pair_classes: of the pair: 2 are whether text and image match, 0 leaves the head out.
    pair: what it reads: the pooled "text", the "product" of both pooled streams (ViLBERT), or the first "token" of the
        text as it is (ALBEF).
    regions: see `RegionHeadConfig`.
    num_answers: classes of answers to a question, read from the pooled text (LXMERT); 0 leaves the head out.
    """

    tokens: bool = True
    num_pair_classes: int = 2
    pair: Literal["text", "product", "token"] = "text"
    regions: tuple[RegionHeadConfig, ...] = ()
    num_answers: int = 0


class Transform(Module):
    """norm(activation(x W + b)), which BERT has before it predicts words (Devlin et al., 2019, released code)."""

    def __init__(self, key: Key, num_inputs: int, width: int, activation: Activation, norm_eps: float):
        dense_key, norm_key = jax.random.split(key)
        self.activation: Activation = activation
        self.dense = Linear(dense_key, "de", (num_inputs, width), init=BERT_INIT)
        self.norm = LayerNorm(norm_key, width, dims="e", eps=norm_eps)

    def __call__(self, x: Array) -> Array:
        """x (b, t, inputs) -> (b, t, width)."""
        return self.norm(ACTIVATIONS[self.activation](self.dense(x)))


class TokenHead(Module):
    """Logits of words: the transform, to the width of the table of tokens, times that table transposed, plus a number
    for each word."""

    def __init__(self, key: Key, width: int, text: TextInput, activation: Activation, norm_eps: float):
        self.transform = Transform(key, width, text.config.width, activation, norm_eps)
        num_rows = len(text.tokens.table)
        self.bias = parameter(key, "v", (num_rows,), initializers.zeros, rows=text.config.vocab_size)

    def __call__(self, x: Array, text: TextInput) -> Array:
        """x (b, t, d) -> logits (b, t, vocab_size) in the dtype of x; a loss over many words does without them."""
        table, vocab_size = weight(text.tokens.table, x.dtype), text.config.vocab_size
        logits = jnp.einsum("btd,vd->btv", self.transform(x), table, out_sharding=rules.spec("btv"))
        logits = rules.gather(logits + weight(self.bias, x.dtype), "bto")
        return logits[..., :vocab_size]


class RegionHead(Module):
    """See `RegionHeadConfig`."""

    def __init__(self, config: RegionHeadConfig, key: Key, width: int, activation: Activation, norm_eps: float):
        transform_key, *keys = jax.random.split(key, 1 + len(config.outputs))
        self.config = config
        self.transform = Transform(transform_key, width, width, activation, norm_eps)
        if config.tied:
            ((_, size),) = config.outputs
            self.bias = parameter(keys[0], "c", (size,), initializers.zeros)
            return
        for (name, size), output_key in zip(config.outputs, keys, strict=True):
            setattr(self, name, Linear(output_key, "dc", (width, size), init=BERT_INIT))

    def __call__(self, x: Array, inputs: ImageInput) -> dict[str, Array]:
        """x (b, p, d) -> for each name (b, p, its size)."""
        hidden = self.transform(x)
        if not self.config.tied:
            return {name: getattr(self, name)(hidden) for name, _ in self.config.outputs}
        assert isinstance(inputs, RegionInput), "a tied head stands behind regions; see FusionConfig"
        kernel = weight(inputs.features.kernel, x.dtype)
        product = jnp.einsum("bpd,cd->bpc", hidden, kernel, out_sharding=rules.spec("bpc"))
        ((name, _),) = self.config.outputs
        return {name: product + weight(self.bias, x.dtype)}


class Pooler(Module):
    """activation(x W + b) of the first token."""

    def __init__(self, key: Key, width: int, config: PoolerConfig):
        self.activation: PoolerActivation = config.activation
        self.dense = Linear(key, "de", (width, config.width or width), init=BERT_INIT)

    def __call__(self, x: Array) -> Array:
        """x (b, t, d) -> (b, e)."""
        first = self.dense(x[:, 0])
        return jnp.tanh(first) if self.activation == "tanh" else jax.nn.relu(first)


class AnswerHead(Module):
    """norm(gelu(x W + b)) V + c, twice as wide inside (Tan and Bansal, 2019, released code); the GELU is exact."""

    def __init__(self, key: Key, width: int, num_answers: int, norm_eps: float):
        keys = jax.random.split(key, 3)
        self.dense = Linear(keys[0], "de", (width, 2 * width), init=BERT_INIT)
        self.norm = LayerNorm(keys[1], 2 * width, dims="e", eps=norm_eps)
        self.out = Linear(keys[2], "ec", (2 * width, num_answers), init=BERT_INIT)

    def __call__(self, pooled: Array) -> Array:
        """pooled (b, d) -> logits (b, answers)."""
        return self.out(self.norm(ACTIVATIONS["gelu"](self.dense(pooled))))
