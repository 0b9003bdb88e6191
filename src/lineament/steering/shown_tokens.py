"""Rows of tokens as a person reads them, with those marked that are read or steered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from lineament.activations.capture import tokens_of_mean
from lineament.problems.problem import IGNORED, Batch
from lineament.steering.steered import Where

# A longer row is shown with its beginning and its end.
MOST_TOKENS, FIRST_TOKENS = 64, 16
_UNKNOWN = "\ufffd"


def read_places(batch: Batch, mean: bool) -> Bool[Tensor, "n_rows length"]:
    """Return the tokens whose activations make a vector, (n_rows, length): those at the targets, or of a mean."""
    if mean:
        return tokens_of_mean(batch.attention_mask)
    chosen = torch.zeros_like(batch.attention_mask, dtype=torch.bool)
    counted = (batch.targets != IGNORED).sum(dim=1, keepdim=True).clamp(min=1)
    return chosen.scatter(1, batch.positions.gather(1, counted - 1), True)


def steered_places(batch: Batch, where: Where) -> Bool[Tensor, "n_rows length"]:
    """Return the tokens of prompts that `steered` adds a vector to, (n_rows, length)."""
    real = batch.attention_mask.bool()
    return real if where == "all" else real & (batch.attention_mask.cumsum(dim=1) == real.sum(dim=1, keepdim=True))


def marked_row(tokenizer: Any, ids: Sequence[int], marked: Sequence[bool]) -> str:
    """Write the tokens of a row, divided by ·, with every run of marked ones between « and ».

    Args:
        ids: real tokens alone. marked: one for each.
    """
    words = [_word(tokenizer, token) for token in ids]
    pieces = []
    for place, word in enumerate(words):
        before = "«" if marked[place] and (place == 0 or not marked[place - 1]) else ""
        after = "»" if marked[place] and (place == len(words) - 1 or not marked[place + 1]) else ""
        pieces.append(f"{before}{word}{after}")
    if len(pieces) <= MOST_TOKENS:
        return "·".join(pieces)
    n_last = MOST_TOKENS - FIRST_TOKENS
    left_out = f"... {len(pieces) - MOST_TOKENS} more ..."
    return "·".join([*pieces[:FIRST_TOKENS], left_out, *pieces[-n_last:]])


def marked_rows(tokenizer: Any, batch: Batch, places: Bool[Tensor, "n_rows length"]) -> list[str]:
    """Write every row of a batch without its padding; see `marked_row`."""
    real = batch.attention_mask.bool()
    rows = zip(batch.input_ids, places, real, strict=True)
    return [marked_row(tokenizer, ids[mask].tolist(), chosen[mask].tolist()) for ids, chosen, mask in rows]


def _word(tokenizer: Any, token: int) -> str:
    """Return a token's text; its name where it is a part of a letter, and codes for what cannot be printed."""
    text = str(tokenizer.decode([token]))
    if not text or _UNKNOWN in text:
        text = str(tokenizer.convert_ids_to_tokens(token))
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
