"""Frozen linear layers through oneDNN: twice as fast as torch's default library on processors that are not Intel's.

Most of a pass through an adapted language model is products with weights that have no gradient. torch hands them to
MKL, which uses AVX-512 on Intel's processors alone; oneDNN, which torch has too, uses it on every processor that has
it. Sums are the same to rounding, and every derivative is there: with respect to the inputs, of second order, forward.
"""

from __future__ import annotations

import platform
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

ONE_DNN_MACHINES = {"x86_64", "AMD64"}


def quicken(model: nn.Module) -> int:
    """Let the frozen linear layers of a model use oneDNN where it is to be had; returns how many do.

    Each layer decides anew in every call: another device or precision, and a weight that needs a gradient, take torch's
    own way. Weights stay where they are, also when a merge rewrites them.
    """
    if platform.machine() not in ONE_DNN_MACHINES or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return 0
    layers = [module for module in model.modules() if type(module) is nn.Linear and _is_frozen(module)]
    for layer in layers:
        layer.forward = MethodType(_forward, layer)  # type: ignore[method-assign]  # a copied layer gets one of its own
    return len(layers)


class FrozenProduct(torch.autograd.Function):
    """x W^T for a weight without gradient, (..., d_in) -> (..., d_out), float32 on the CPU."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        """Multiply through oneDNN."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
        return product

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Keep the weight for derivatives of any order and both directions."""
        ctx.save_for_backward(inputs[1])
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Multiply with the weight from the other side, again differentiably."""
        (weight,) = ctx.saved_tensors
        return frozen_product(gradient, weight.t()), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor | None, weight_tangent: Tensor | None) -> Tensor | None:
        """Map a tangent of the inputs; the weight has none."""
        (weight,) = ctx.saved_tensors
        return None if tangent is None else frozen_product(tangent, weight)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, int | None], x: Tensor, weight: Tensor) -> tuple[Tensor, int]:
        """Treat a mapped axis of the inputs as one more of their leading axes."""
        if in_dims[0] is None or in_dims[1] is not None:
            raise NotImplementedError("the weight of a frozen layer is the same for all that is mapped over.")
        return frozen_product(x.movedim(in_dims[0], 0), weight), 0


def frozen_product(x: Tensor, weight: Tensor) -> Tensor:
    """Return x W^T, differentiable with respect to x to any order; see `FrozenProduct`."""
    # Flat inside: oneDNN's result for more axes is a view made without gradients, which nobody may change in place.
    flat: Tensor = FrozenProduct.apply(x.reshape(-1, x.shape[-1]), weight)  # type: ignore[no-untyped-call]
    return flat.view(*x.shape[:-1], len(weight))


def _forward(layer: nn.Linear, x: Tensor) -> Tensor:
    if not (_is_frozen(layer) and _is_plain(x) and _is_plain(layer.weight)):
        return functional.linear(x, layer.weight, layer.bias)
    product = frozen_product(x, layer.weight)
    return product if layer.bias is None else product + layer.bias


def _is_frozen(layer: nn.Linear) -> bool:
    return not layer.weight.requires_grad


def _is_plain(tensor: Tensor) -> bool:
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu" and tensor.numel() > 0
