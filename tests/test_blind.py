"""The blind null: closed forms of SGD, torch's own optimizers on noise, and that it needs nothing but the optimizer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats

from lineament.errors import InputError
from lineament.measurements.captures import definitions, own_candidates
from lineament.streams import Streams
from lineament.vectors.blind import UpdateRule, blind_gram
from lineament.vectors.trajectory_gram import TrajectoryGram

SPACE = blind_gram(UpdateRule("sgd"), 1).space
Maker = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Maker] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd with weight decay": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, weight_decay=0.3),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "dampening": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.4),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.7, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.0),
    "adamw with weight decay": lambda p: torch.optim.AdamW(p, lr=5e-2, weight_decay=0.5),
    "adamw without momentum": lambda p: torch.optim.AdamW(p, lr=1e-2, betas=(0.0, 0.99), weight_decay=0.0),
    "adamw with a large eps": lambda p: torch.optim.AdamW(p, lr=1e-2, eps=0.5, weight_decay=0.0),
}


def two_groups(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    other = [torch.nn.Parameter(torch.ones(1))]
    return torch.optim.SGD([{"params": parameters, "momentum": 0.5}, {"params": other}], lr=1.0)


def torch_run(make: Maker, n_steps: int, width: int, seed: int, sizes: list[float] | None = None) -> TrajectoryGram:
    """A real blind run: torch's optimizer on `width` weights that begin at N(0, 1), fed noise."""
    generator = torch.Generator().manual_seed(seed)
    theta = torch.nn.Parameter(torch.randn(width, generator=generator, dtype=torch.float64))
    optimizer, rows = make([theta]), []
    for step in range(n_steps):
        for group in optimizer.param_groups:
            group["lr"] = sizes[step] if sizes else group["lr"]
        before = theta.detach().clone()
        theta.grad = torch.randn(width, generator=generator, dtype=torch.float64)
        optimizer.step()
        rows.append(theta.detach() - before)
    updates = torch.stack(rows).numpy()
    return TrajectoryGram(updates @ updates.T / width, SPACE)


def figures(gram: TrajectoryGram, rank: int = 4) -> dict[str, float]:
    """Every capture that a study takes of its own updates, and an overlap of windows."""
    end = gram.n_steps
    made = own_candidates(gram, end, 5, lambda k: Streams(0).generator("times", k))
    values = {"overlap": gram.overlap(gram.prefix(rank), gram.span(range(end - rank, end)))}
    for name, at_rank in made.items():
        for labels, weights_of in definitions(gram, rank, {"T": end}):
            drawn = [gram.capture(c.coefficients, weights_of(c)) for c in at_rank(rank)]
            values[f"{name} {labels['definition']}"] = float(np.mean(drawn))
    return {name: value for name, value in values.items() if np.isfinite(value)}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_the_mean_of_real_blind_runs(name: str) -> None:
    n_steps, n_runs = 25, 16
    make = OPTIMIZERS[name]
    rule = UpdateRule.of(make([torch.nn.Parameter(torch.zeros(1))]))
    blind = figures(blind_gram(rule, n_steps, start_rms=1.0, n_coordinates=400_000))
    runs = [figures(torch_run(make, n_steps, 20_000, seed)) for seed in range(n_runs)]
    for key, value in blind.items():
        drawn = np.array([run[key] for run in runs])
        stderr = drawn.std(ddof=1) / np.sqrt(n_runs)
        # two-sided t of 15 degrees at the level of 3 standard errors over some 100 comparisons, and the finite width
        assert abs(value - drawn.mean()) < stats.t.ppf(1 - 1e-5, n_runs - 1) * stderr + 2e-3, (key, value, drawn.mean())


def test_a_schedule_is_followed() -> None:
    sizes = [0.0, 1e-2, 2e-2, *np.linspace(2e-2, 0.0, 22)]
    make = OPTIMIZERS["adamw"]
    rule = UpdateRule.of(make([torch.nn.Parameter(torch.zeros(1))]), sizes)
    blind = blind_gram(rule, len(sizes), n_coordinates=100_000).gram
    real = np.mean([torch_run(make, len(sizes), 20_000, seed, sizes).gram for seed in range(4)], axis=0)
    assert blind[0, 0] == 0
    assert np.abs(blind - real).max() < 0.02 * real.max()


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.99])
def test_sgd_is_its_geometric_sum(momentum: float) -> None:
    n, size = 60, 0.3
    gram = blind_gram(UpdateRule("sgd", (size,), momentum=momentum), n, gradient_rms=2.0).gram
    s, t = np.meshgrid(np.arange(1, n + 1), np.arange(1, n + 1))
    least = np.minimum(s, t)
    terms = (1 - momentum ** (2 * least)) / (1 - momentum**2) if momentum else np.ones_like(least, dtype=float)
    expected = (size * 2.0) ** 2 * momentum ** np.abs(s - t) * terms if momentum else (size * 2.0) ** 2 * np.eye(n)
    np.testing.assert_allclose(gram, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("k", [1, 5, 10])
def test_plain_sgd_captures_k_over_t_and_nothing_of_the_rest(k: int) -> None:
    gram = blind_gram(UpdateRule("sgd", (0.1,)), 40)
    whole, rest = gram.displacement(1, 40), gram.displacement(k + 1, 40)
    assert gram.capture(gram.prefix(k), whole) == pytest.approx(k / 40, rel=1e-12)
    assert gram.capture(gram.prefix(k), rest) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("n_steps", "whole", "rest", "random_times"),
    [(35, 0.64, 0.22, 0.92), (100, 0.28, 0.06, 0.74), (200, 0.15, 0.03, 0.56)],
)
def test_adamw_alone_fills_much_of_a_short_run(n_steps: int, whole: float, rest: float, random_times: float) -> None:
    """Ten updates of AdamW (0.9, 0.999) on pure noise; figures of a second simulation, of one run each."""
    values = figures(blind_gram(UpdateRule("adamw", momentum=0.9), n_steps), rank=10)
    assert values["prefix whole"] == pytest.approx(whole, abs=0.02)
    assert values["prefix rest"] == pytest.approx(rest, abs=0.025)
    assert values["control_random_times whole"] == pytest.approx(random_times, abs=0.03)


def test_without_momentum_prefix_and_random_times_are_one() -> None:
    values = figures(blind_gram(UpdateRule("adamw", momentum=0.0), 100), rank=10)
    assert values["prefix rest"] < 0.005
    assert values["prefix whole"] == pytest.approx(values["control_random_times whole"], abs=0.05)


def test_the_scale_of_gradients_cancels_unless_eps_is_large() -> None:
    rule = UpdateRule("adamw", (1e-3,), momentum=0.9)
    small, large = (figures(blind_gram(rule, 30, gradient_rms=rms)) for rms in (1e-2, 1e2))
    assert all(small[key] == pytest.approx(large[key], abs=1e-4) for key in small)


def test_equal_questions_get_equal_answers_and_nobody_can_spoil_them() -> None:
    rule = UpdateRule("adamw", momentum=0.9)
    first = blind_gram(rule, 12, n_coordinates=3_000)
    first.gram[:] = 0
    again, other = blind_gram(rule, 12, n_coordinates=3_000), blind_gram(rule, 12, n_coordinates=3_000, seed=1)
    assert again.gram.any()
    assert not np.array_equal(again.gram, other.gram)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: torch.optim.RMSprop(p), "RMSprop"),
        (lambda p: torch.optim.Adam(p, weight_decay=0.1), "Adam without weight decay"),
        (lambda p: torch.optim.AdamW(p, amsgrad=True), "amsgrad"),
        (two_groups, "parameter groups"),
    ],
)
def test_optimizers_of_which_no_blind_run_is_known_are_refused(make: Maker, words: str) -> None:
    with pytest.raises(InputError, match=words):
        UpdateRule.of(make([torch.nn.Parameter(torch.zeros(1))]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n_steps": 0}, "n_steps is 0"),
        ({"n_coordinates": 0}, "n_coordinates is 0"),
        ({"gradient_rms": 0.0}, "gradient_rms is 0"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        blind_gram(UpdateRule("sgd"), **{"n_steps": 3, **arguments})  # type: ignore[arg-type]


def test_rules_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="lion"):
        UpdateRule("lion")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="beta2 is 1"):
        UpdateRule("adamw", beta2=1.0)
    with pytest.raises(InputError, match="finite"):
        UpdateRule("sgd", (float("nan"),))
