"""Where a model's layers are: its list of blocks, and attention and MLP inside each, recognised by structure.

No table of architectures: the blocks of a decoder are its largest list of modules, whatever the list is called
and whatever wraps the model (an adapter of PEFT, for one).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from lineament.errors import InputError

Site = Literal["block", "attention", "mlp"]

# What classes and attributes of the two halves of a block are called, in every decoder of transformers and ours.
_NAMES = {
    "attention": re.compile(r"attn|attention|mixer", re.IGNORECASE),
    "mlp": re.compile(r"mlp|feed_?forward|ffn|moe|down_proj", re.IGNORECASE),
}
_NORM = re.compile(r"norm|ln_|dropout", re.IGNORECASE)


@dataclass(frozen=True)
class Blocks:
    """The blocks of a decoder, layer l being `modules[l - 1]`.

    Attributes:
        name: name of the list inside the model, such as `model.layers`.
    """

    name: str
    modules: tuple[nn.Module, ...]

    def __len__(self) -> int:
        return len(self.modules)

    def at(self, layer: int, site: Site = "block") -> nn.Module:
        """Return the module whose output is this site of a layer.

        Raises:
            InputError: the layer is out of range, or the block has no such part.
        """
        self.require((layer,))
        block = self.modules[layer - 1]
        return block if site == "block" else _part(block, site)

    def require(self, layers: Sequence[int]) -> None:
        """Raise `InputError` unless every layer exists and there is at least one."""
        if not layers:
            raise InputError("no layer was given; give at least one, counted from 1.")
        for layer in layers:
            if not 1 <= layer <= len(self):
                raise InputError(f"layer {layer} is out of range; this model has layers 1 to {len(self)}.")


def find_blocks(model: nn.Module) -> Blocks:
    """Find the blocks of a decoder: the outermost list of modules that holds most parameters.

    Raises:
        InputError: the model has no such list, or the largest holds less than half of what is no embedding.
    """
    lists = {name: module for name, module in model.named_modules() if _is_block_list(module)}
    outermost = {name: m for name, m in lists.items() if not any(name.startswith(f"{other}.") for other in lists)}
    name = max(outermost, key=lambda name: _size(outermost[name]), default=None)
    if name is None or 2 * _size(outermost[name]) < _size(model) - _embedding_size(model):
        raise InputError(
            f"{type(model).__name__} has no list of blocks that holds most parameters; give a decoder-only model."
        )
    return Blocks(name, tuple(outermost[name].children()))


def output_tensor(output: Tensor | tuple[Any, ...]) -> Tensor:
    """Return the activations in what a module returns: blocks of some models give a tuple that begins with them."""
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def _is_block_list(module: nn.Module) -> bool:
    """Say whether this lists blocks; they may be of several kinds (attention, state spaces), each built of parts."""
    children = list(module.children())
    return isinstance(module, nn.ModuleList) and bool(children) and all(any(child.children()) for child in children)


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _embedding_size(model: nn.Module) -> int:
    """Count the parameters of embeddings and of a head of their shape: large in small models, and in no layer.

    A head's bias has an entry per token, and nothing else has so many.
    """
    shapes = {m.weight.shape for m in model.modules() if isinstance(m, nn.Embedding)}
    biases = {shape[:1] for shape in shapes}
    return sum(p.numel() for p in model.parameters() if p.shape in shapes or p.shape in biases)


def _part(block: nn.Module, site: Site) -> nn.Module:
    """Find the child whose attribute or class is named like the site; norms and dropouts around it are not it."""
    for name, child in block.named_children():
        if _NORM.search(name) or _NORM.search(type(child).__name__):
            continue
        if _NAMES[site].search(name) or _NAMES[site].search(type(child).__name__):
            _require_own_output(child, site)
            return child
    children = ", ".join(name for name, _ in block.named_children())
    raise InputError(f"{type(block).__name__} has no part that is its {site}; it has {children}. Use site block.")


def _require_own_output(part: nn.Module, site: Site) -> None:
    """Refuse parts that return the residual stream with their output added (BLOOM's, MPT's)."""
    if "residual" in inspect.signature(part.forward).parameters:
        raise InputError(f"{type(part).__name__} returns the residual stream, not its own {site}. Use site block.")
