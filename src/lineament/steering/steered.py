"""Adding a steering vector during a model's forward pass, at the right tokens, also while it generates.

Which tokens is told by their place among the real tokens of their own row, read from the attention mask of each
call: so left padding, batches and the key-value cache of `generate` change nothing. Coefficient 0 adds no hook at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lineament.activations.blocks import find_blocks, output_tensor
from lineament.errors import InputError
from lineament.steering.vector import SteeringVector

# all: every real token; answer: the last token of the prompt and everything after it.
Where = Literal["all", "answer"]


@contextmanager
def steered(model: nn.Module, vector: SteeringVector, coefficient: float, where: Where | int = "all") -> Iterator[None]:
    """Inside the block, coefficient times the vector's direction is added at its site of each of its layers.

    Args:
        model: a decoder; any call of it inside the block is steered, `generate` included.
        where: `all`; `answer`; or a number n, the n-th real token of each row (from 0) and everything after it.

    Raises:
        InputError: a layer that the model has not, another width (when the model is called), a negative number for
            `where`, or a coefficient that is not finite.
    """
    if not torch.isfinite(torch.tensor(coefficient)):
        raise InputError(f"coefficient {coefficient}: it must be finite.")
    if isinstance(where, int) and where < 0:
        raise InputError(f"steering from token {where}: tokens are counted from 0.")
    blocks, tokens = find_blocks(model), _Tokens(where)
    modules = {layer: blocks.at(layer, vector.tags.site) for layer in vector.layers}
    with ExitStack() as stack:
        if coefficient != 0:
            if where != "all":
                # The decoder itself, not what wraps it: an adapter's `generate` calls past its own wrapper.
                decoder = model.get_submodule(blocks.name.rpartition(".")[0])
                stack.callback(decoder.register_forward_pre_hook(tokens.see, with_kwargs=True).remove)
            for layer, module in modules.items():
                hook = _adding(coefficient * vector.directions[layer], tokens)
                stack.callback(module.register_forward_hook(hook).remove)
        yield


class _Tokens:
    """Which tokens of the present call are steered."""

    def __init__(self, where: Where | int) -> None:
        self._where = where
        self._first: Tensor | None = None
        self._mask: Tensor | None = None

    def see(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A pre-hook of the decoder: finds each token's place in its row."""
        ids = kwargs.get("input_ids")
        if ids is None:
            ids = args[0] if args else kwargs["inputs_embeds"][..., 0]
        past, length = _past_length(kwargs), ids.shape[1]
        mask = kwargs.get("attention_mask")
        if mask is None or mask.ndim != 2:
            mask = torch.ones(len(ids), past + length, device=ids.device)
        places = mask.cumsum(dim=1)[:, -length:] - 1
        if past == 0:
            self._first = self._first_place(mask)
        assert self._first is not None
        self._mask = (places >= self._first) & (mask[:, -length:] > 0)

    def chosen(self) -> Tensor | None:
        """(n, length) booleans, or None for every token."""
        return self._mask

    def _first_place(self, mask: Tensor) -> Tensor:
        """(n, 1) place in its row from which on a row is steered."""
        if self._where == "answer":
            return mask.sum(dim=1, keepdim=True) - 1
        return torch.full((len(mask), 1), int(self._where), device=mask.device)


def _past_length(kwargs: Mapping[str, Any]) -> int:
    """Tokens in the key-value cache before this call."""
    cache = kwargs.get("past_key_values")
    return int(cache.get_seq_length()) if cache is not None else 0


def _adding(direction: Tensor, tokens: _Tokens) -> Callable[..., Any]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        hidden = output_tensor(output)
        if hidden.shape[-1] != len(direction):
            raise InputError(
                f"the vector has width {len(direction)}, but activations here have {hidden.shape[-1]}: it is for "
                "another model."
            )
        added, mask = direction.to(hidden), tokens.chosen()
        moved = hidden + (added if mask is None else mask[..., None].to(hidden.dtype) * added)
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    return hook
