"""Frozen layers through oneDNN: the products and derivatives of every kind are those of torch's own layer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from lineament.problems.frozen_linear import quicken


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[True, False], ids=["bias", "plain"])
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module]:
    """A small frozen network, once as it is and once quickened."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(12, 20, request.param), nn.Tanh(), nn.Linear(20, 7, request.param))
    plain.requires_grad_(False)
    quick = copy.deepcopy(plain)
    assert quicken(quick) == 2
    return plain, quick


def test_products_of_every_shape(pair: tuple[nn.Module, nn.Module]) -> None:
    plain, quick = pair
    for shape in ((12,), (3, 12), (2, 3, 12), (2, 3, 4, 12)):
        x = seeded(*shape)
        assert torch.allclose(quick(x), plain(x), rtol=1e-5, atol=1e-6)
    strided = seeded(12, 5).t()
    assert torch.allclose(quick(strided), plain(strided), rtol=1e-5, atol=1e-6)
    assert quick(seeded(0, 12)).shape == (0, 7)


def test_gradients_of_first_and_second_order(pair: tuple[nn.Module, nn.Module]) -> None:
    found = []
    for module in pair:
        x = seeded(4, 3, 12).requires_grad_()
        (gradient,) = torch.autograd.grad(module(x).pow(3).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad((gradient * seeded(4, 3, 12, seed=1)).sum(), x)
        found.append((gradient.detach(), second))
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_forward_derivatives(pair: tuple[nn.Module, nn.Module]) -> None:
    x, tangent = seeded(4, 12), seeded(4, 12, seed=1)
    wanted = torch.func.jvp(pair[0], (x,), (tangent,))[1]
    assert torch.allclose(torch.func.jvp(pair[1], (x,), (tangent,))[1], wanted, rtol=1e-5, atol=1e-6)
    with forward_ad.dual_level():
        dual = pair[1](forward_ad.make_dual(x, tangent))
        assert torch.allclose(forward_ad.unpack_dual(dual).tangent, wanted, rtol=1e-5, atol=1e-6)


def test_a_product_may_be_changed_in_place_as_shared_passes_do(pair: tuple[nn.Module, nn.Module]) -> None:
    gradients = []
    for module in pair:
        x, term = seeded(2, 3, 12), nn.Parameter(seeded(2, 3, 7, seed=1))
        out = module[0](x)  # type: ignore[index]
        out.view(6, 20).mul_(2.0).add_(term.view(6, 7).mean(dim=1, keepdim=True))
        gradients += torch.autograd.grad(module[2](out.tanh()).sum(), term)  # type: ignore[index]
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-5)


def test_mapping_over_inputs(pair: tuple[nn.Module, nn.Module]) -> None:
    x = seeded(3, 5, 12)
    assert torch.allclose(torch.func.vmap(pair[1], in_dims=1)(x), pair[0](x.movedim(1, 0)), rtol=1e-5, atol=1e-6)
    jacobian = torch.func.jacrev(pair[1])(x[0, 0])
    assert torch.allclose(jacobian, torch.func.jacrev(pair[0])(x[0, 0]), rtol=1e-5, atol=1e-6)


def test_other_precision_and_weights_that_learn_take_torch_s_own_way(pair: tuple[nn.Module, nn.Module]) -> None:
    plain, quick = (module.double() for module in pair)
    x = seeded(4, 12).double()
    assert torch.equal(quick(x), plain(x))
    quick.float().requires_grad_(True)
    quick(seeded(4, 12)).sum().backward()
    assert all(p.grad is not None for p in quick.parameters())


def test_weights_that_are_rewritten_count(pair: tuple[nn.Module, nn.Module]) -> None:
    plain, quick = pair
    for module in pair:
        module[0].weight.data += 1.0  # type: ignore[index,operator,union-attr]
    x = seeded(4, 12)
    assert torch.allclose(quick(x), plain(x), rtol=1e-5, atol=1e-6)


def test_a_copy_has_weights_of_its_own(pair: tuple[nn.Module, nn.Module]) -> None:
    copied = copy.deepcopy(pair[1])
    for layer in (pair[1][0], pair[1][2]):  # type: ignore[index]
        layer.weight.data.zero_()
    x = seeded(4, 12)
    assert torch.allclose(copied(x), pair[0](x), rtol=1e-5, atol=1e-6)


def test_layers_that_learn_are_left_alone() -> None:
    assert quicken(nn.Sequential(nn.Linear(3, 3))) == 0
