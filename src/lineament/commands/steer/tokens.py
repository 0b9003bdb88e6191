"""What --show-tokens prints: the first rows, token by token, with those marked that are read or steered."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lineament.commands.steer.model import SteeredModel
from lineament.commands.terminal import console
from lineament.problems.problem import Batch
from lineament.steering.contrast import Contrast
from lineament.steering.shown_tokens import marked_rows, read_places, steered_places
from lineament.steering.steered import Where

ROWS_SHOWN = 3


def print_read(loaded: SteeredModel, contrast: Contrast, mean: bool) -> None:
    """Print of the first rows of each class what the vector is read at."""
    what = "the mean over these is read" if mean else "activations are read there"
    console.print(f"Tokens of the first rows, divided by ·; between « and »: {what}.")
    for name, of_class in (("positive", contrast.positive), ("negative", ~contrast.positive)):
        rows = contrast.rows.rows(of_class.nonzero()[:ROWS_SHOWN, 0])
        _print_rows(marked_rows(loaded.problem.tokenizer, rows, read_places(rows, mean)), name)


def print_steered(loaded: SteeredModel, prompts: Batch, where: Where, then: str) -> None:
    """Print of the first prompts which tokens are steered, and what comes after them."""
    rows = prompts.rows(torch.arange(min(ROWS_SHOWN, len(prompts))))
    console.print(f"Tokens of the first rows, divided by ·; between « and »: steered. {then}")
    _print_rows(marked_rows(loaded.problem.tokenizer, rows, steered_places(rows, where)), "row")


def _print_rows(rows: Sequence[str], name: str) -> None:
    for number, row in enumerate(rows, start=1):
        console.print(f"  {name} {number}: {row}", soft_wrap=True)
