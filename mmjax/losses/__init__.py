"""Losses: pure functions of arrays; `contrastive` is that of pairs, in the implementation that suits their number."""

from mmjax.losses.choice import contrastive

__all__ = ["contrastive"]
