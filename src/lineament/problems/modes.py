"""Training and evaluation modes of a model's modules, which others' code must find as it left them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def own_modes(model: nn.Module) -> Iterator[None]:
    """Give back every module's own mode, also after an exception."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training  # not train(), which would set everything below as well


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, so that no dropout makes two losses differ; give back its own modes."""
    with own_modes(model):
        model.eval()
        yield
