"""Local geometry of updates against closed forms: a quadratic has them all, a small network dense Hessians."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lineament.errors import InputError
from lineament.parameters import ParameterSpace
from lineament.vectors.local_geometry import (
    additivity_defect,
    commutator,
    last_within,
    order_defect,
    relative_errors,
    validity_radius,
)

N = 12


class Point(nn.Module):
    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.randn(N, generator=generator, dtype=torch.float64))


class Quadratic:
    """0.5 theta'H theta + b'theta."""

    def __init__(self, point: Point, generator: torch.Generator, hessian: Tensor | None = None) -> None:
        root = torch.randn(N, N, generator=generator, dtype=torch.float64)
        self.point, self.hessian = point, (root + root.T) / 8 if hessian is None else hessian
        self.linear = torch.randn(N, generator=generator, dtype=torch.float64)

    def __call__(self) -> Tensor:
        theta = self.point.theta
        return theta @ self.hessian @ theta / 2 + self.linear @ theta

    @property
    def gradient(self) -> Tensor:
        return (self.hessian @ self.point.theta + self.linear).detach()


@pytest.fixture
def quadratics() -> tuple[ParameterSpace, Quadratic, Quadratic]:
    generator = torch.Generator().manual_seed(3)
    point = Point(generator)
    return ParameterSpace(point, ["theta"]), Quadratic(point, generator), Quadratic(point, generator)


def test_the_order_of_two_steps_on_quadratics_is_exactly_their_commutator(
    quadratics: tuple[ParameterSpace, Quadratic, Quadratic],
) -> None:
    space, a, b = quadratics
    exact = b.hessian @ a.gradient - a.hessian @ b.gradient
    torch.testing.assert_close(commutator(space, a, b), exact, rtol=1e-12, atol=1e-12)
    for eta in (1e-4, 0.1, 3.0):
        defect = order_defect(space, a, b, eta)
        torch.testing.assert_close(defect.difference, eta**2 * exact, rtol=1e-8, atol=1e-14)
        length = eta * float((a.gradient + b.gradient).norm())
        assert defect.relative == pytest.approx(eta**2 * float(exact.norm()) / length, rel=1e-8)


def test_swapping_the_losses_changes_the_sign_and_a_loss_commutes_with_itself(
    quadratics: tuple[ParameterSpace, Quadratic, Quadratic],
) -> None:
    space, a, b = quadratics
    torch.testing.assert_close(commutator(space, a, b), -commutator(space, b, a))
    torch.testing.assert_close(order_defect(space, a, b, 0.1).difference, -order_defect(space, b, a, 0.1).difference)
    assert not commutator(space, a, a).any()
    assert order_defect(space, a, a, 0.1).relative == 0.0


def test_quadratics_with_commuting_hessians_and_one_minimum_have_no_commutator() -> None:
    generator = torch.Generator().manual_seed(4)
    point = Point(generator)
    space = ParameterSpace(point, ["theta"])
    axes = torch.linalg.qr(torch.randn(N, N, generator=generator, dtype=torch.float64))[0]
    sizes = (torch.rand(N, generator=generator, dtype=torch.float64) for _ in range(2))
    a, b = (Quadratic(point, generator, axes @ torch.diag(values) @ axes.T) for values in sizes)
    a.linear = b.linear = torch.zeros(N, dtype=torch.float64)
    assert commutator(space, a, b).norm() < 1e-13
    assert order_defect(space, a, b, 0.5).relative < 1e-13


def test_the_radius_of_a_quadratic_is_the_one_its_curvature_predicts(
    quadratics: tuple[ParameterSpace, Quadratic, Quadratic],
) -> None:
    space, a, _ = quadratics
    before = space.read()
    radius = validity_radius(space, a, -a.gradient)
    slope, curvature = -float(a.gradient @ a.gradient), float(a.gradient @ a.hessian @ a.gradient)
    assert (radius.slope, radius.curvature) == pytest.approx((slope, curvature), rel=1e-12)
    assert radius.predicted == pytest.approx(0.2 * abs(slope / curvature), rel=1e-12)
    # the error of a quadratic is proportional to the size, so that interpolating between logarithms is exact
    assert radius.radius == pytest.approx(radius.predicted, rel=1e-6) or radius.predicted > 1
    assert torch.equal(space.read(), before)


def test_the_radius_of_a_straight_loss_has_no_end_and_a_bent_one_none() -> None:
    generator = torch.Generator().manual_seed(5)
    point = Point(generator)
    space = ParameterSpace(point, ["theta"])
    straight = Quadratic(point, generator, torch.zeros(N, N, dtype=torch.float64))
    found = validity_radius(space, straight, straight.gradient)
    assert (found.radius, found.censored, found.predicted) == (1.0, True, math.inf)
    bent = Quadratic(point, generator, 1e9 * torch.eye(N, dtype=torch.float64))
    bent.linear = straight.gradient - (bent.hessian @ point.theta).detach()
    assert validity_radius(space, bent, bent.gradient).radius == 0.0


def test_the_additivity_of_a_quadratic_is_its_cross_term(
    quadratics: tuple[ParameterSpace, Quadratic, Quadratic],
) -> None:
    space, a, _ = quadratics
    generator = torch.Generator().manual_seed(6)
    first, second = (0.1 * torch.randn(N, generator=generator, dtype=torch.float64) for _ in range(2))

    def change(move: Tensor) -> float:
        return float(a.gradient @ move + move @ a.hessian @ move / 2)

    expected = abs(float(first @ a.hessian @ second)) / (abs(change(first)) + abs(change(second)))
    assert additivity_defect(space, a, first, second) == pytest.approx(expected, rel=1e-9)
    assert math.isnan(additivity_defect(space, a, 0 * first, 0 * first))


class Network(nn.Module):
    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.inner, self.outer = (
            nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64) / 2) for shape in ((5, 3), (2, 5))
        )

    def loss_on(self, inputs: Tensor, labels: Tensor) -> Callable[[], Tensor]:
        def loss() -> Tensor:
            return nn.functional.cross_entropy(torch.tanh(inputs @ self.inner.T) @ self.outer.T, labels)

        return loss


@pytest.fixture
def network() -> tuple[ParameterSpace, Callable[[], Tensor], Callable[[], Tensor]]:
    generator = torch.Generator().manual_seed(7)
    model = Network(generator)
    draw = [
        (torch.randn(16, 3, generator=generator, dtype=torch.float64), torch.randint(2, (16,), generator=generator))
        for _ in range(2)
    ]
    return ParameterSpace(model, ["inner", "outer"]), model.loss_on(*draw[0]), model.loss_on(*draw[1])


def dense_hessian(space: ParameterSpace, loss: Callable[[], Tensor]) -> Tensor:
    parts = torch.autograd.grad(loss(), space.tensors, create_graph=True)
    flat = space.flatten(list(parts))
    rows = [space.flatten(list(torch.autograd.grad(one, space.tensors, retain_graph=True))) for one in flat]
    return torch.stack(rows)


def test_the_commutator_of_a_network_is_that_of_its_dense_hessians(
    network: tuple[ParameterSpace, Callable[[], Tensor], Callable[[], Tensor]],
) -> None:
    space, a, b = network
    gradients = [space.gradient(loss()) for loss in (a, b)]
    exact = dense_hessian(space, b) @ gradients[0] - dense_hessian(space, a) @ gradients[1]
    torch.testing.assert_close(commutator(space, a, b), exact, rtol=1e-10, atol=1e-13)


def test_the_order_defect_falls_with_the_square_and_its_error_with_the_cube(
    network: tuple[ParameterSpace, Callable[[], Tensor], Callable[[], Tensor]],
) -> None:
    space, a, b = network
    exact, steps = commutator(space, a, b), np.logspace(-3, -2, 5)
    differences = [order_defect(space, a, b, float(eta)).difference for eta in steps]
    sizes = [float(d.norm()) for d in differences]
    errors = [float((d - eta**2 * exact).norm()) for d, eta in zip(differences, steps, strict=True)]
    for values, power in ((sizes, 2.0), (errors, 3.0)):
        slope = np.polyfit(np.log(steps), np.log(values), 1)[0]
        assert slope == pytest.approx(power, abs=0.05)


def test_the_last_size_within_the_tolerance() -> None:
    sizes = (0.01, 0.1, 1.0)
    assert last_within(sizes, (0.01, 0.1, 1.0), 0.1) == (pytest.approx(0.1), False)
    assert last_within(sizes, (0.01, 1.0, 0.01), 0.1)[0] == pytest.approx(0.01 * 10**0.5)  # what lies beyond is lost
    assert last_within(sizes, (math.nan, 0.01, 0.02), 0.1) == (1.0, True)
    assert last_within(sizes, (0.2, 0.01, 0.02), 0.1) == (0.0, False)
    assert math.isnan(last_within(sizes, (math.nan,) * 3, 0.1)[0])


def test_changes_that_rounding_could_make_are_not_judged() -> None:
    errors = relative_errors((1e-9, 1e-3), (1.5e-9, 1e-3), rounding=1e-9)
    assert math.isnan(errors[0])
    assert errors[1] == 0.0


def test_bad_steps_and_sizes_are_refused(quadratics: tuple[ParameterSpace, Quadratic, Quadratic]) -> None:
    space, a, b = quadratics
    with pytest.raises(InputError, match="step_size is -1"):
        order_defect(space, a, b, -1.0)
    with pytest.raises(InputError, match="ascending"):
        validity_radius(space, a, a.gradient, sizes=(0.1, 0.01))
    with pytest.raises(InputError, match="zero"):
        validity_radius(space, a, 0 * a.gradient)
