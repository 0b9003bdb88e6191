"""The embedded model: a small pre-norm decoder-only transformer, GPT-2's layout with separate projections."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lineament.problems.problem import at_positions


class Attention(nn.Module):
    """Causal multi-head self-attention, (n, length, width) -> (n, length, width)."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.o_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape

        def heads(projection: nn.Module) -> Tensor:
            return projection(x).view(n, length, self.n_heads, -1).transpose(1, 2)  # type: ignore[no-any-return]

        mixed = functional.scaled_dot_product_attention(
            heads(self.q_proj), heads(self.k_proj), heads(self.v_proj), is_causal=True
        )
        return self.o_proj(mixed.transpose(1, 2).reshape(n, length, width))  # type: ignore[no-any-return]


class Block(nn.Module):
    """One pre-norm layer: attention, then a two-layer MLP of four times the width."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, n_heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.up_proj = nn.Linear(width, 4 * width)
        self.down_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.down_proj(functional.gelu(self.up_proj(self.mlp_norm(x))))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Token ids (n, length) -> logits at chosen positions (n, n_targets, n_vocabulary)."""

    def __init__(self, n_vocabulary: int, length: int, width: int, n_layers: int, n_heads: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(n_vocabulary, width)
        self.position_embedding = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, n_heads) for _ in range(n_layers))
        self.final_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_vocabulary, bias=False)
        nn.init.normal_(self.token_embedding.weight, std=0.1)
        nn.init.normal_(self.position_embedding.weight, std=0.1)

    def forward(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        places = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        x = self.token_embedding(input_ids) + self.position_embedding(places)
        for block in self.blocks:
            x = block(x)
        return self.head(self.final_norm(at_positions(x, positions)))  # type: ignore[no-any-return]
