"""Adding a steering vector during a model's forward pass, at the right tokens, also while it generates.

Which tokens is told by their place among the real tokens of their own row, read from the attention mask of each
call: so left padding, batches and the key-value cache of `generate` change nothing. Coefficient 0 adds no hook at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lineament.activations.blocks import find_blocks, output_tensor
from lineament.errors import InputError, unknown_name
from lineament.steering.vector import SteeringVector

# all: every token; answer: the last token of the prompt and everything after it.
Where = Literal["all", "answer"]


@contextmanager
def steered(
    model: nn.Module, vector: SteeringVector, coefficient: float, where: Where | int | Tensor = "all"
) -> Iterator[None]:
    """Inside the block, add coefficient times the vector's direction at its site of each of its layers.

    Args:
        model: a decoder; any call of it inside the block is steered, `generate` included.
        where: `all`; a number n, the n-th real token of each row (from 0) and everything after it; a tensor
            (n_rows,) of such numbers; or `answer`, the last token of what a call without a filled cache brings and
            everything after it. `answer` takes every such call for a new prompt: where `generate` calls again with the
            prompt grown longer (no cache, or drafts behind the prompt), give the prompts' lengths less one as a tensor.

    Raises:
        InputError: a layer that the model does not have, a coefficient or direction that is not finite, or another
            `where`; when the model is called, another width, or a call whose tokens cannot be told apart (see `where`).
    """
    if not math.isfinite(coefficient) or abs(coefficient) > torch.finfo(torch.float32).max:
        raise InputError(f"the coefficient is {coefficient}; it must be finite in float32.")
    tokens = _Tokens(where)
    blocks = find_blocks(model)
    modules = {layer: blocks.at(layer, vector.tags.site) for layer in vector.layers}
    with ExitStack() as stack:
        if coefficient != 0:
            # The decoder's pre-hook runs before any block's: it decides which tokens the blocks' hooks steer.
            if not tokens.every:
                # The decoder itself, not what wraps it: an adapter's `generate` calls past its own wrapper.
                decoder = _owner(model, blocks.name)
                stack.callback(decoder.register_forward_pre_hook(tokens.see, with_kwargs=True).remove)
                stack.callback(decoder.register_forward_hook(tokens.forget).remove)
            for layer, module in modules.items():
                hook = _adding(coefficient * vector.directions[layer], tokens)
                stack.callback(module.register_forward_hook(hook).remove)
        yield


def _owner(model: nn.Module, name: str) -> nn.Module:
    """Find the module that calls the blocks: the nearest one above their list that is no container itself."""
    while name:
        name = name.rpartition(".")[0]
        owner = model.get_submodule(name)
        if not isinstance(owner, nn.ModuleList | nn.ModuleDict):
            return owner
    return model


class _Tokens:
    """Which tokens of the present call are steered."""

    def __init__(self, where: Where | int | Tensor) -> None:
        if isinstance(where, str) and where not in get_args(Where):
            raise unknown_name("place to steer", where, get_args(Where))
        if isinstance(where, int) and where < 0:
            raise InputError(
                f"steering was to start at token {where}; give 0 or more, counted from the first real token."
            )
        self.every = isinstance(where, str) and where == "all"
        self._where = where
        self._first: Tensor | None = None
        self._mask: Tensor | None = None

    def see(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Find each token's place in its row, as a pre-hook of the decoder."""
        ids = kwargs.get("input_ids")
        if ids is None:
            ids = args[0] if args else kwargs["inputs_embeds"][..., 0]
        past, length = _past_length(kwargs), ids.shape[1]
        mask = kwargs.get("attention_mask")
        if mask is None:
            mask = torch.ones(len(ids), past + length, device=ids.device)
        if not isinstance(mask, Tensor) or mask.ndim != 2 or mask.shape[1] < length:
            raise InputError(
                "this call gives the model a prepared attention mask, from which no token's place in its row can be "
                "read (a static cache does so). Steer with where='all', or generate with an ordinary cache."
            )
        # Places from the mask, not arange: padding on the left and a filled cache both shift them.
        places = mask.cumsum(dim=1)[:, -length:] - 1
        if self._first is None or past == 0 or not isinstance(self._where, str):
            self._first = self._first_places(mask, past)
        self._mask = (places >= self._first) & (mask[:, -length:] > 0)

    def forget(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Forget the call that has ended, as a hook of the decoder."""
        self._mask = None

    def chosen(self) -> Tensor | None:
        """Return the steered tokens, (n, length) booleans, or None for every token."""
        if self.every:
            return None
        if self._mask is None:
            raise InputError("the blocks were called by another module than their owner; steer with where='all'.")
        return self._mask

    def _first_places(self, mask: Tensor, past: int) -> Tensor:
        """Return the place in its row from which on each row is steered, (n, 1)."""
        if isinstance(self._where, Tensor):
            n_given, n = len(self._where), len(mask)
            if n % n_given:
                raise InputError(f"{n_given} first places were given for {n} rows; give one per row.")
            # Beams of one prompt stand next to each other.
            return self._where.to(mask.device).repeat_interleave(n // n_given)[:, None]
        if isinstance(self._where, int):
            return torch.full((len(mask), 1), self._where, device=mask.device)
        if past:
            raise InputError("the cache was filled before steering began; give the first places as a tensor.")
        return mask.sum(dim=1, keepdim=True) - 1


def _past_length(kwargs: Mapping[str, Any]) -> int:
    """Count the tokens in the key-value cache before this call."""
    if kwargs.get("cache_params") is not None:
        raise InputError("this model keeps a state in place of a cache; steer it with where='all'.")
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
