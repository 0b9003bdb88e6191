"""Interference of two adapters: Taylor's theorem on tiny models, and every figure on losses made by closed forms."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from composed import base_problem, examples, pair
from torch import Tensor

from lineament import Batch, ParameterSpace, Record, Streams, commutator, scale_adapter
from lineament.errors import InputError
from lineament.merging.composition_record import About, composition_record, prediction_record
from lineament.merging.figures import DataFigures, Resampled, figure
from lineament.merging.foretold import Beside, Foretold, foretell
from lineament.merging.interference import Composition, Meeting, interference
from lineament.merging.options import SCALES, CompositionOptions
from lineament.merging.order import chance_of_larger, changed_weights, order_kappas
from lineament.merging.random_vectors import with_random_vectors
from lineament.merging.scales import best_scales
from lineament.merging.side_branches import SideBranches, losses_at, scale_derivatives
from lineament.report.sections.composition.words import LEVEL

SMALL = CompositionOptions(scales=(0.5, 1.0), draws=2)


@pytest.fixture(scope="module")
def data() -> tuple[Batch, Batch]:
    return examples(7, 10), examples(8, 12)


@pytest.fixture(scope="module")
def composed(data: tuple[Batch, Batch], tmp_path_factory: pytest.TempPathFactory) -> Composition:
    adapters = pair("gpt2", tmp_path_factory.mktemp("composed"))
    return interference(base_problem("gpt2"), adapters, data, SMALL)


def test_small_scales_interfere_as_curvature_says(composed: Composition, data: tuple[Batch, Batch]) -> None:
    """I(c, c) / (c^2 A'HB) is 1 + O(c): its distance from 1 halves with c."""
    problem = base_problem("gpt2")
    branches = SideBranches(problem.model, composed.adapters)
    for number, batch in enumerate(data):
        bent = float(composed.meetings[number].curvatures[:, 1].mean())
        errors = []
        for c in (2e-3, 1e-3):
            points = torch.tensor([[c, c], [c, 0], [0, c], [0, 0]], dtype=torch.float64)
            both, first, second, base = (float(x.mean()) for x in losses_at(problem, branches, batch, points))
            errors.append((both - first - second + base) / (c * c * bent) - 1)
        assert abs(errors[0]) < 0.1
        assert errors[1] == pytest.approx(errors[0] / 2, rel=0.05)


def test_grid_and_interference_are_those_of_the_losses(composed: Composition, data: tuple[Batch, Batch]) -> None:
    problem, at = base_problem("gpt2"), composed.one
    assert composed.scales == (0.0, 0.5, 1.0)
    branches = SideBranches(problem.model, composed.adapters)
    points = torch.tensor([[0.5, 1.0], [0.5, 0.0], [0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    for number, batch in enumerate(data):
        both, first, second, base = losses_at(problem, branches, batch, points)
        meeting = composed.meetings[number]
        torch.testing.assert_close(meeting.grid[1, 2], both)
        torch.testing.assert_close(meeting.interference()[1, 2], both - first - second + base)
        assert not meeting.interference()[0].any()
        assert not meeting.interference()[:, 0].any()
        assert float(composed.measured(number)[at, at]) == pytest.approx(float(meeting.interference()[at, at].mean()))
        assert float(composed.predicted(number)[1, 2]) == pytest.approx(0.5 * float(meeting.curvatures[:, 1].mean()))
    smallest = composed.small[0]
    assert smallest == 0.5 / 32
    point = torch.tensor([[smallest, smallest]], dtype=torch.float64)
    torch.testing.assert_close(composed.meetings[0].small[0, 2], next(losses_at(problem, branches, data[0], point)))


def test_draws_of_the_null_are_measured_as_adapters(composed: Composition, data: tuple[Batch, Batch]) -> None:
    problem = base_problem("gpt2")
    drawn = with_random_vectors(composed.adapters[1], SMALL.streams.generator("null", 1))
    branches = SideBranches(problem.model, [composed.adapters[0], drawn])
    found = scale_derivatives(problem, branches, data[1], (0,)).curvatures[:, 0, 1]
    torch.testing.assert_close(composed.meetings[1].null_curvatures[1], found)
    figures = DataFigures(composed, 1)
    predicted = figures.meeting.interference_at_one("base").draws.mean(dim=-1)
    measured = figures.measured("interference").draws.mean(dim=-1)
    assert float(predicted[1]) == pytest.approx(float(found.mean()))
    points = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    both, first, second, base = (float(x.mean()) for x in losses_at(problem, branches, data[1], points))
    assert float(measured[1]) == pytest.approx(both - first - second + base)
    half = scale_derivatives(problem, branches, data[1], (0,), (0.5, 0.5)).curvatures[:, 0, 1]
    torch.testing.assert_close(figures.meeting.interference_at_one("middle").draws[1], half)


@pytest.mark.parametrize("own", [0, 1])
def test_the_null_of_a_cost_replaces_the_adapter_that_costs(
    own: int, composed: Composition, data: tuple[Batch, Batch]
) -> None:
    """On A's data B is drawn, on B's data A; slope and curvature are by the scale of each draw alone."""
    problem, name = base_problem("gpt2"), ("null of the first", "null")[1 - own]
    figures = DataFigures(composed, own)
    for draw in range(SMALL.draws):
        drawn = with_random_vectors(composed.adapters[1 - own], SMALL.streams.generator(name, draw))
        branches = SideBranches(problem.model, [composed.adapters[own], drawn])
        found = scale_derivatives(problem, branches, data[own], (1,), (1.0, 0.0))
        foretold = found.slopes[:, 1] + found.curvatures[:, 0, 1] / 2
        torch.testing.assert_close(figures.meeting.cost().draws[draw], foretold)
        together, alone = losses_at(problem, branches, data[own], torch.tensor([[1.0, 1.0], [1.0, 0.0]]).double())
        torch.testing.assert_close(figures.measured("cost").draws[draw], together - alone)


def test_what_is_foretold_alone_is_what_a_composition_foretells(
    composed: Composition, data: tuple[Batch, Batch]
) -> None:
    told: list[tuple[int, int]] = []
    found = foretell(
        base_problem("gpt2"),
        composed.adapters,
        data,
        SMALL,
        progress=lambda what, done, total: told.append((done, total)),
    )
    for foretold, meeting in zip(found.foretold, composed.meetings, strict=True):
        for field in fields(Foretold):
            assert torch.equal(getattr(foretold, field.name), getattr(meeting, field.name)), field.name
    assert told[-1][0] == told[-1][1]
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_all_work_is_counted(data: tuple[Batch, Batch], composed: Composition) -> None:
    told: list[tuple[int, int]] = []
    interference(
        base_problem("gpt2"),
        composed.adapters,
        data,
        SMALL,
        progress=lambda what, done, total: told.append((done, total)),
    )
    assert told[-1][0] == told[-1][1]
    assert len({total for _, total in told}) == 1


def test_sizes_of_a_null_have_the_error_of_a_mean() -> None:
    """Draws of means -2, -1 and 1 have the median size 1; noise around 0 does not add to it."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4, 400, generator=generator, dtype=torch.float64)
    noise -= noise.mean(dim=1, keepdim=True)
    beside = Beside(noise[0] + 1.5, noise[1:] + torch.tensor([[-2.0], [-1.0], [1.0]], dtype=torch.float64))
    resampled = Resampled.of(400, 0, 0)
    size, below = resampled.null_size(beside), resampled.null_rank(beside)
    assert size.value == pytest.approx(1)
    assert size.stderr == pytest.approx(1 / math.sqrt(400), rel=0.4)
    assert below.value == pytest.approx(2 / 3)
    assert below.low == below.high == below.value
    nothing = resampled.null_size(Beside(noise[0], noise[1:]))
    assert nothing.low is not None
    assert nothing.low < 0 < nothing.high  # type: ignore[operator]
    lost = resampled.null_rank(Beside(noise[0] * torch.nan, noise[1:]))
    assert lost.value is None


def made(losses: object, curvatures: tuple[float, float, float] = (0.0, 1.0, 0.0), n: int = 40) -> Composition:
    """A composition whose losses are a function of (s, t) plus a constant of each example's own, on both data sets."""
    scales = (0.0, *SCALES)
    small = CompositionOptions().small
    generator = torch.Generator().manual_seed(0)
    own = torch.randn(n, generator=generator, dtype=torch.float64)

    def at(s: float, t: float) -> Tensor:
        return float(losses(s, t)) + own  # type: ignore[operator]

    meeting = Meeting(
        slopes=torch.zeros(n, 2, dtype=torch.float64),
        curvatures=torch.tensor([curvatures], dtype=torch.float64).repeat(n, 1),
        middle=torch.full((n,), curvatures[1], dtype=torch.float64),
        onward=torch.zeros(n, 2, dtype=torch.float64),
        grid=torch.stack([torch.stack([at(s, t) for t in scales]) for s in scales]),
        small=torch.stack([torch.stack([at(c, 0), at(0, c), at(c, c)]) for c in small]),
        null_curvatures=torch.zeros(2, n, dtype=torch.float64),
        null_middle=torch.zeros(2, n, dtype=torch.float64),
        null_onward=torch.zeros(2, 2, n, dtype=torch.float64),
        null_losses=torch.stack([torch.stack([at(0, 0), at(1, 0)])] * 2),
        null_together=torch.stack([at(1, 0)] * 2),
        validation=torch.arange(n) % 2 == 0,
    )
    return Composition((), scales, small, (meeting, meeting), torch.float64, 0)  # type: ignore[arg-type]


def test_a_quadratic_is_predicted_everywhere() -> None:
    figures = DataFigures(made(lambda s, t: 2 - s - t + s**2 + t**2 + s * t), 0)
    found, censored = figures.holds_up_to("base")
    assert (found.value, found.low, found.high, censored) == (1.5, 1.5, 1.5, True)
    assert figures.agreement("base").value == pytest.approx(1)
    assert figures.interference().value == pytest.approx(1)
    assert figures.cost().value == pytest.approx(-1 + 1 + 1)
    other = DataFigures(made(lambda s, t: 2 - s - 3 * t + s * t), 1)
    assert other.cost().value == pytest.approx(-1 + 1)


@pytest.mark.parametrize("cubic", [0.2, 0.5, 4.0])
def test_a_cubic_part_ends_the_prediction_where_it_is_a_tenth(cubic: float) -> None:
    """With I(c, c) = c^2 + k c^3 the error is k c."""
    found, censored = DataFigures(made(lambda s, t: s * t + cubic * s**2 * t), 0).holds_up_to("base")
    assert found.value == pytest.approx(0.1 / cubic)
    assert not censored


def test_curvature_half_way_foretells_a_cubic_part() -> None:
    """I = st + k s^2 t has d2I/dsdt = 1 + 2 k s, which is 1 + k half-way: st (1 + k (s + t) / 2) along s = t."""
    composition = made(lambda s, t: s * t + 4 * s**2 * t)
    meeting = replace(composition.meetings[0], middle=torch.full_like(composition.meetings[0].middle, 5.0))
    figures = DataFigures(replace(composition, meetings=(meeting, meeting)), 0)
    found, censored = figures.holds_up_to("both")
    assert (found.value, censored) == (1.5, True)
    assert figures.holds_up_to("base")[0].value == pytest.approx(0.1 / 4)
    assert figures.foretold.middle().value == figures.interference().value == pytest.approx(5)
    predicted = figures.composition.predicted(0, "both")
    torch.testing.assert_close(predicted.diagonal(), figures.composition.measured(0).diagonal())
    assert figures.agreement("base").value < figures.agreement("both").value < 1  # type: ignore[operator]


def test_curvature_half_way_is_exact_to_third_order(composed: Composition, data: tuple[Batch, Batch]) -> None:
    """Of adapters made smaller by c, what the base misses falls as c and what the middle misses as c^2."""
    problem, misses = base_problem("gpt2"), []
    for c in (0.02, 0.01):
        small = tuple(scale_adapter(one, c) for one in composed.adapters)
        branches = SideBranches(problem.model, small)
        points = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
        both, first, second, base = (float(x.mean()) for x in losses_at(problem, branches, data[0], points))
        real = both - first - second + base
        at = [scale_derivatives(problem, branches, data[0], (0,), point) for point in ((0.0, 0.0), (0.5, 0.5))]
        misses.append([abs(float(one.curvatures[:, 0, 1].mean()) / real - 1) for one in at])
    assert misses[1][0] == pytest.approx(misses[0][0] / 2, rel=0.2)
    assert misses[1][1] == pytest.approx(misses[0][1] / 4, rel=0.2)


def test_the_cost_is_foretold_to_second_order_from_the_own_adapter(
    composed: Composition, data: tuple[Batch, Batch]
) -> None:
    """With the other adapter made smaller by c, what is missed falls as c^2: half as large an adapter, a quarter."""
    problem = base_problem("gpt2")
    for own in (0, 1):
        missed = []
        for c in (0.005, 0.0025):
            pair = tuple(one if place == own else scale_adapter(one, c) for place, one in enumerate(composed.adapters))
            found = DataFigures(interference(problem, pair, data, SMALL), own)  # type: ignore[arg-type]
            measured, foretold = found.cost().value, found.foretold.cost().value
            assert measured is not None
            assert foretold is not None
            missed.append(abs(foretold - measured) / abs(measured))
        assert missed[1] == pytest.approx(missed[0] / 4, rel=0.25)


def test_a_wrong_sign_is_never_predicted() -> None:
    figures = DataFigures(made(lambda s, t: s * t, (0.0, -1.0, 0.0)), 0)
    assert figures.holds_up_to("base")[0].value == 0
    assert figures.agreement("base").value == pytest.approx(-1)


def test_nothing_is_judged_below_rounding() -> None:
    composition = replace(made(lambda s, t: 1e-9 * s * t, (0.0, 1e-9, 0.0)), dtype=torch.float32)
    found, _ = DataFigures(composition, 0).holds_up_to("base")
    assert found.value is None
    assert "rounding" in str(found.reason)


def test_the_sum_keeps_what_one_alone_gains_up_to_a_scale() -> None:
    """A alone gains c; B takes 0.2 c^2 of it: 0.9 is kept up to 0.5. B alone gains nothing on A's data."""
    composition = made(lambda s, t: 3 - s + 0.2 * s * t)
    found, censored = DataFigures(composition, 0).keeps_up_to()
    assert found.value == pytest.approx(0.5)
    assert not censored
    sizes, shares = DataFigures(composition, 0).kept()
    assert shares[sizes.index(1.0)] == pytest.approx(0.8)
    other, _ = DataFigures(composition, 1).keeps_up_to()
    assert other.value is None
    assert "gains nothing" in str(other.reason)


def test_intervals_are_those_of_means_over_examples() -> None:
    values = torch.randn(200, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = figure(Resampled.of(200, 0, 0).means(values))
    assert found.value == pytest.approx(float(values.mean()))
    assert found.stderr == pytest.approx(float(values.std()) / math.sqrt(200), rel=0.1)
    assert found.low is not None
    assert found.low == pytest.approx(float(values.mean()) - 1.96 * found.stderr, abs=0.3 * found.stderr)
    again = figure(Resampled.of(200, 0, 0).means(values))
    assert again == found
    assert figure(Resampled.of(200, 1, 0).means(values)).low != found.low


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Of 300 data sets of 64 skewed examples, 95 % give or take three standard errors (and what skewness takes)."""
    draws = torch.from_numpy(Streams(0).generator("coverage").exponential(size=(300, 64)))
    found = [figure(Resampled.of(64, seed, 0).means(values)) for seed, values in enumerate(draws)]
    covered = sum(one.low <= 1 <= one.high for one in found if one.low is not None and one.high is not None) / 300
    assert 0.89 < covered < 0.98


def test_scales_are_chosen_on_validation_examples_alone() -> None:
    composition = made(lambda s, t: (s - 0.5) ** 2 + (t - 1.25) ** 2)
    best = best_scales(composition)
    assert (best.first, best.second, best.at_edge) == (0.5, 1.25, False)
    held_out = composition.meetings[0].grid.clone()
    held_out[..., 1::2] = torch.rand_like(held_out[..., 1::2])  # what held-out examples lose says nothing
    other = replace(composition.meetings[0], grid=held_out)
    assert best_scales(replace(composition, meetings=(other, other))) == best
    assert best_scales(made(lambda s, t: -s - t)).at_edge
    assert best_scales(made(lambda s, t: s + t)).place == (0, 0)
    broken = composition.meetings[0].grid.clone()
    broken[0, 0] = torch.nan
    lost = replace(composition.meetings[0], grid=broken)
    assert best_scales(replace(composition, meetings=(lost, lost))) == best


def test_kappa_is_the_commutators(composed: Composition, data: tuple[Batch, Batch]) -> None:
    problem = base_problem("gpt2")
    problem.model.requires_grad_(False)
    told: list[tuple[int, int]] = []
    found = order_kappas(problem, composed.adapters, data, 2, lambda done, total: told.append((done, total)))
    assert [kappa.batches for kappa in found] == list(combinations(range(8), 2))
    assert Counter(kappa.pair for kappa in found) == {"between": 16, "within_first": 6, "within_second": 6}
    assert told == [(n, 8) for n in range(1, 9)]
    assert not any(parameter.requires_grad for parameter in problem.model.parameters())
    names = list(changed_weights(problem.model, composed.adapters))
    problem.model.requires_grad_(True)
    space = ParameterSpace(problem.model, names)
    batches = [batch.rows(slice(start, start + 2)) for batch in data for start in (0, 2, 4, 6)]
    for kappa in (found[0], found[5], found[-1]):
        losses = [lambda i=i: problem.loss(batches[i]) for i in kappa.batches]  # type: ignore[misc]
        gradients = [space.gradient(loss()) for loss in losses]
        expected = float(commutator(space, *losses).norm() / (gradients[0] + gradients[1]).norm())
        assert kappa.plain == pytest.approx(expected, rel=1e-8)
        assert kappa.unit_norm > 0


def pairs(value: Callable[[int, int], float]) -> list[tuple[tuple[int, int], float]]:
    return [(pair, value(*pair)) for pair in combinations(range(8), 2)]


def test_order_is_called_larger_between_sets_in_one_of_35_cases_of_one_set() -> None:
    """The groups of a permutation test are those of the data: with one set in two files each of 35 is as likely."""
    apart = pairs(lambda a, b: 2.0 if (a < 4) != (b < 4) else 1.0)
    assert chance_of_larger(apart) == pytest.approx(1 / 35)
    assert chance_of_larger([(pair, -value) for pair, value in apart]) == 1.0
    assert chance_of_larger(pairs(lambda a, b: 1.0)) == 1.0
    generator = np.random.default_rng(0)
    spread = generator.normal(size=(700, 8, 2))  # batches of one set: kappa is the distance of two points
    chances = [chance_of_larger(pairs(lambda a, b, one=one: float(np.hypot(*(one[a] - one[b]))))) for one in spread]
    falsely = float(np.mean([chance <= LEVEL for chance in chances]))
    assert abs(falsely - 1 / 35) < 4 * (1 / 35 * 34 / 35 / 700) ** 0.5
    assert abs(float(np.mean(chances)) - 18 / 35) < 4 * 0.29 / 700**0.5
    moved = spread + np.repeat([[0.0, 0.0], [6.0, 0.0]], 4, axis=0)
    assert all(
        chance_of_larger(pairs(lambda a, b, one=one: float(np.hypot(*(one[a] - one[b]))))) <= LEVEL for one in moved[:9]
    )


def test_the_record_holds_every_figure(composed: Composition, data: tuple[Batch, Batch], tmp_path: Path) -> None:
    problem = base_problem("gpt2")
    kappas = order_kappas(problem, composed.adapters, data, 1)
    about = About(("sql", "chat"), ("a.jsonl", "b.jsonl"), kappas)
    record = composition_record(composed, problem, about)
    assert Record.load(record.save(tmp_path)).quantities == record.quantities
    assert {quantity.name for quantity in record.quantities} == set(record.definitions)
    assert record.target == "sql and chat"
    for number, side in enumerate(("first", "second")):
        measured = record.value("interference", data=side, kind="measured", s=0.5, t=1.0)
        assert measured == pytest.approx(float(composed.measured(number)[1, 2]))
        assert len(list(record.select("loss", data=side))) == 9
    for of, name, kind in (
        ("interference", "interference_at_one", "predicted"),
        ("interference", "interference_at_one", "middle"),
        ("cost", "cost", "predicted"),
    ):
        values = [record.value(name, data="second", kind=one, end="low") for one in (kind, "measured")]
        assert None not in values
        own, measured = (
            next(q.value for q in record.select(name, data="second", kind=one) if "end" not in q.labels)
            for one in (kind, "measured")
        )
        error = next(q.value for q in record.select("prediction_error", data="second", of=of, kind=kind))
        assert error == pytest.approx(own - measured)  # type: ignore[operator]
        for what in ("value", "error"):
            labels = {"data": "second", "of": of, "what": what, "kind": kind}
            draws = [abs(q.value or 0.0) for q in record.select("null_draw", **labels)]
            assert len(draws) == SMALL.draws
            size, low, high = (q.value for q in record.select("null_size", **labels))
            assert size == pytest.approx(sum(draws) / 2)
            assert low < size < high  # type: ignore[operator]
    without = composition_record(composed, problem, About(("sql", "chat"), ("a", "b"), why_no_order="too large"))
    assert next(without.select("kappa")).reason == "too large"


def test_dropout_does_not_speak_along(data: tuple[Batch, Batch], composed: Composition) -> None:
    problem = base_problem("gpt2")
    dropout = [module for module in problem.model.modules() if isinstance(module, torch.nn.Dropout)]
    for module in dropout:
        module.p = 0.5
    problem.model.train()
    again = interference(problem, composed.adapters, data, SMALL)
    ahead = foretell(problem, composed.adapters, data, SMALL)
    assert dropout
    assert torch.equal(ahead.foretold[0].middle, composed.meetings[0].middle)
    assert all(module.training for module in problem.model.modules())
    assert torch.equal(again.meetings[0].grid, composed.meetings[0].grid)


def test_a_record_of_predictions_holds_nothing_that_was_measured(
    composed: Composition, data: tuple[Batch, Batch]
) -> None:
    problem, about = base_problem("gpt2"), About(("sql", "chat"), ("a", "b"))
    whole = composition_record(composed, problem, about)
    found = prediction_record(foretell(problem, composed.adapters, data, SMALL), problem, about)
    assert {quantity.name for quantity in found.quantities} == set(found.definitions)
    assert not set(found.definitions) & {"loss", "interference", "prediction_error", "agreement", "best_scale", "kept"}
    assert all(quantity in whole.quantities for quantity in found.quantities)
    assert not any(quantity.labels.get("kind") == "measured" for quantity in found.quantities)


def test_equal_calls_give_equal_figures(composed: Composition, data: tuple[Batch, Batch]) -> None:
    again = interference(base_problem("gpt2"), composed.adapters, data, SMALL)
    for one, other in zip(again.meetings, composed.meetings, strict=True):
        assert torch.equal(one.grid, other.grid)
        assert torch.equal(one.curvatures, other.curvatures)
        assert torch.equal(one.validation, other.validation)
    assert int(again.meetings[0].validation.sum()) == 5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scales": ()}, "give at least one"),
        ({"scales": (0.0, 1.0)}, "above 0"),
        ({"scales": (-1.0,)}, "above 0"),
        ({"scales": (math.nan,)}, "above 0"),
        ({"scales": (1e9,)}, "at most 100"),
        ({"draws": 0}, "needs at least 1"),
    ],
)
def test_options_out_of_their_range_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        CompositionOptions(**options)  # type: ignore[arg-type]


def test_too_few_examples_are_refused(composed: Composition, data: tuple[Batch, Batch]) -> None:
    few = data[1].rows(slice(0, 7))
    with pytest.raises(InputError, match="7 examples; at least 8"):
        interference(base_problem("gpt2"), composed.adapters, (data[0], few), SMALL)


def test_streams_of_a_composition_are_its_own() -> None:
    assert SMALL.streams == Streams(0).child("composition")
