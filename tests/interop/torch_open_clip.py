"""open_clip's towers in a few lines of plain PyTorch, with its names: what its files mean, where it is not installed.

Written from its module names and the papers, for the tests alone; `open_clip_proof.py` asks the library itself.
"""

from typing import Any

from tests.interop.torch_models import torch

nn, functional = torch.nn, torch.nn.functional


def mlp(width: int, mlp_dim: int, names: tuple[str, str]) -> Any:
    layers = nn.Module()
    for name, sizes in zip(names, ((width, mlp_dim), (mlp_dim, width)), strict=True):
        layers.add_module(name, nn.Linear(*sizes))
    return layers


class Block(nn.Module):
    """A layer of open_clip's own towers, whose attention is PyTorch's."""

    def __init__(self, width: int, num_heads: int, mlp_dim: int):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.mlp = mlp(width, mlp_dim, ("c_fc", "c_proj"))

    def forward(self, x: Any, mask: Any) -> Any:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp.c_proj(functional.gelu(self.mlp.c_fc(self.ln_2(x))))


def blocks(config: Any) -> Any:
    stack = nn.Module()
    stack.resblocks = nn.ModuleList(Block(config.width, config.num_heads, config.mlp_dim) for _ in range(config.depth))
    return stack


class Visual(nn.Module):
    def __init__(self, config: Any, embed_dim: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, config.width, config.patch_size, config.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(config.width))
        self.positional_embedding = nn.Parameter(torch.zeros(config.num_tokens, config.width))
        self.ln_pre, self.ln_post = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.transformer = blocks(config)
        self.proj = nn.Parameter(torch.zeros(config.width, embed_dim))

    def forward(self, pixels: Any) -> Any:
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)
        token = self.class_embedding.expand(len(pixels), 1, -1)
        x = self.ln_pre(torch.cat([token, patches], 1) + self.positional_embedding)
        for block in self.transformer.resblocks:
            x = block(x, None)
        return self.ln_post(x[:, 0]) @ self.proj


class CLIP(nn.Module):
    """With the end of text at the largest id."""

    def __init__(self, config: Any):
        super().__init__()
        text = config.text
        self.visual = Visual(config.image, config.embed_dim)
        self.token_embedding = nn.Embedding(text.vocab_size, text.width)
        self.positional_embedding = nn.Parameter(torch.zeros(text.context_len, text.width))
        self.transformer = blocks(text)
        self.ln_final = nn.LayerNorm(text.width)
        self.text_projection = nn.Parameter(torch.zeros(text.width, config.embed_dim))
        self.logit_scale = nn.Parameter(torch.zeros(()))

    def encode_text(self, ids: Any) -> Any:
        x = self.token_embedding(ids) + self.positional_embedding
        mask = torch.full((ids.shape[1],) * 2, float("-inf")).triu(1)
        for block in self.transformer.resblocks:
            x = block(x, mask)
        return self.ln_final(x)[torch.arange(len(ids)), ids.argmax(1)] @ self.text_projection


class Attention(nn.Module):
    """timm's: of a sequence to itself, or of a latent query to it."""

    def __init__(self, width: int, num_heads: int, *, latent: bool):
        super().__init__()
        self.num_heads = num_heads
        if latent:
            self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        else:
            self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def attend(self, q: Any, k: Any, v: Any) -> Any:
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, v))
        return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class TimmBlock(nn.Module):
    def __init__(self, config: Any):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(config.width, 1e-6) for _ in range(2))
        self.attn = Attention(config.width, config.num_heads, latent=False)
        self.mlp = mlp(config.width, config.mlp_dim, ("fc1", "fc2"))

    def forward(self, x: Any) -> Any:
        x = x + self.attn.attend(*self.attn.qkv(self.norm1(x)).chunk(3, -1))
        return x + self.mlp.fc2(functional.gelu(self.mlp.fc1(self.norm2(x))))


class MapPool(Attention):
    def __init__(self, config: Any):
        super().__init__(config.width, config.num_heads, latent=True)
        self.latent = nn.Parameter(torch.zeros(1, 1, config.width))
        self.norm = nn.LayerNorm(config.width, 1e-6)
        self.mlp = mlp(config.width, config.mlp_dim, ("fc1", "fc2"))

    def forward(self, x: Any) -> Any:
        x = self.attend(self.q(self.latent.expand(len(x), -1, -1)), *self.kv(x).chunk(2, -1))
        return (x + self.mlp.fc2(functional.gelu(self.mlp.fc1(self.norm(x)))))[:, 0]


class Trunk(nn.Module):
    """timm's ViT of SigLIP, with exact GELU."""

    def __init__(self, config: Any):
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, config.width, config.patch_size, config.patch_size)
        self.pos_embed = nn.Parameter(torch.zeros(1, config.num_tokens, config.width))
        self.blocks = nn.Sequential(*(TimmBlock(config) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(config.width, 1e-6)
        self.attn_pool = MapPool(config) if config.pool == "map" else None

    def forward(self, pixels: Any) -> Any:
        x = self.patch_embed.proj(pixels).flatten(2).transpose(1, 2) + self.pos_embed
        x = self.norm(self.blocks(x))
        return x.mean(1) if self.attn_pool is None else self.attn_pool(x)
