"""Tests of advice on trainings with a known answer: each passes where the advice holds, and fails where it does not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from advice_cases import Layer, adapted, recorded, training, with_values
from torch import Tensor

from lineament.advice.check import begin_check, check_advice, check_recording
from lineament.advice.inside import Inside, Plane, best_of, first_update_cosine, trained_inside
from lineament.advice.loss_drop import LossDrop
from lineament.advice.options import CheckOptions
from lineament.advice.rank_check import rank_figure
from lineament.advice.refresh_check import refresh_arms
from lineament.advice.run import CheckedRun
from lineament.advice.training import Training
from lineament.bases import Basis, from_vectors
from lineament.claims.advice import advise, remarks
from lineament.claims.advice_line import Advice, why_untested
from lineament.errors import InputError, NonFiniteError
from lineament.measurements.recording.analysis import analyze_recording
from lineament.measurements.recording.options import AnalysisOptions
from lineament.parameters import ParameterSpace
from lineament.records import Quantity, Record
from lineament.vectors.blind import UpdateRule
from lineament.vectors.recording.reader import Trajectory
from lineament.vectors.recording.sketch import Sketch
from lineament.vectors.recording.writer import Recorder

OPTIONS = AnalysisOptions(window=4, plane_rank=1)


def rank_run(folder: Path, target: Tensor, rank: int = 6) -> CheckedRun:
    """A LoRA training towards a matrix, long enough to get there."""
    model = adapted(rank)
    own = training(model, target)
    parameters = [p for p in model.parameters() if p.requires_grad]
    trajectory = recorded(folder, own, torch.optim.Adam(parameters, lr=0.03), 150)
    return CheckedRun.of(trajectory, own, trajectory.optimizer.groups[0].rule)


def line_of(lines: list[Advice], quantity: str, **labels: object) -> Advice:
    return next(x for x in lines if x.quantity == quantity and all(x.labels.get(k) == v for k, v in labels.items()))


def test_truncated_losses_are_those_of_the_dense_matrices(tmp_path: Path) -> None:
    target = with_values(3.0, 2.0, 1.0, 0.5)
    run = rank_run(tmp_path / "rows", target)
    (pair,) = run.trajectory.pairs()

    def dense(theta: Tensor) -> Tensor:
        a, b = theta[pair.a].view(pair.a_shape), theta[pair.b].view(pair.b_shape)
        return pair.scale * b @ a

    u, s, v = torch.linalg.svd(dense(run.end) - dense(run.start))
    model = Layer()
    plain = training(model, target)
    for rank in (1, 2, 3):
        with torch.no_grad():
            model.linear.weight.copy_(dense(run.start) + u[:, :rank] * s[:rank] @ v[:rank])
        wanted = (float(plain.held_out().detach().mean()) - run.drop.end.mean()) / (
            run.drop.start - run.drop.end
        ).mean()
        assert rank_figure(run, "k90", rank).value == pytest.approx(wanted, rel=1e-5)
    whole = rank_figure(run, "k90", 2 * 6)
    assert whole.value == pytest.approx(0, abs=1e-7)
    assert rank_figure(run, "k90", 1).null is not None


@pytest.mark.parametrize(("values", "outcome"), [((3.0, 2.9), "passed"), ((1.0, 0.7, 0.5, 0.3), "failed")])
def test_a_rank_that_suffices_passes_and_one_that_does_not_fails(
    tmp_path: Path, values: tuple[float, ...], outcome: str
) -> None:
    run = rank_run(tmp_path / "rows", with_values(*values))
    before = run.space.read()
    lines = check_advice(tmp_path / "rows", run.training, options=OPTIONS)
    assert torch.equal(run.space.read(), before)
    line = line_of(lines, "mean_module_rank", statistic="participation_ratio")
    assert line.value is not None
    assert line.tested is not None
    assert line.standing == outcome
    assert line.tested.interval.startswith("bootstrap")
    assert line.tested.null is not None
    assert line.tested.value is not None
    assert line.tested.null > line.tested.value
    assert outcome.capitalize() in line.sentence
    assert (": no)" in line.sentence) == (outcome == "failed")


def checked(run: CheckedRun, seed: int = 0) -> tuple[Record, Record]:
    """Analysis and tests of the rank."""
    analysis = analyze_recording(run.trajectory, "layer", seed, OPTIONS)
    return analysis, record_of(run.trajectory, run.training, analysis, RANKS)


RANKS = CheckOptions(tests=("rank",))


def record_of(
    trajectory: Trajectory,
    own: Training,
    analysis: Record,
    check: CheckOptions | None = None,
    earlier: Record | None = None,
    save: Callable[[Record], object] = lambda record: None,
) -> Record:
    begun = begin_check(trajectory, own, analysis, OPTIONS, check, earlier=earlier)
    return check_recording(trajectory, own, begun, advise([analysis, begun.record]), OPTIONS, check, save=save)


def test_spans_of_dw_stay_untested_and_say_why(tmp_path: Path) -> None:
    run = rank_run(tmp_path / "rows", with_values(3.0, 2.0))
    lines = [line for line in check_advice(tmp_path / "rows", run.training, options=OPTIONS) if line.testable]
    spans = [line for line in lines if line.quantity == "steps_to_span" and not line.no_advice]
    of_dw = [line for line in spans if line.labels["space_of"] == "lora_effective"]
    assert of_dw
    assert {line.standing for line in of_dw} == {"untested"}
    assert why_untested(lines) == [of_dw[0].no_test]
    assert "no training can be held in a span of dW" in of_dw[0].no_test
    assert why_untested([line for line in lines if line not in of_dw]) == []


def test_a_test_of_another_recording_does_not_count(tmp_path: Path) -> None:
    first = checked(rank_run(tmp_path / "a", with_values(3.0, 2.0)))
    second = checked(rank_run(tmp_path / "b", with_values(3.0, 2.5)))
    assert line_of(advise(first), "mean_module_rank").tested is not None
    assert line_of(advise([first[0], second[1]]), "mean_module_rank").standing == "untested"
    assert line_of(advise(first[:1]), "mean_module_rank").standing == "untested"


def test_a_check_goes_on_with_what_an_earlier_one_left(tmp_path: Path) -> None:
    run = rank_run(tmp_path / "rows", with_values(3.0, 2.0))
    analysis, whole = checked(run)
    saved: list[Record] = []
    again = record_of(run.trajectory, run.training, analysis, RANKS, whole, saved.append)
    assert again == whole
    assert saved[-1] == whole
    none = CheckOptions(tests=())
    assert record_of(run.trajectory, run.training, analysis, none, whole) == whole
    assert record_of(run.trajectory, run.training, analysis, none).value("rank_cost", statistic="k90") is None
    other = record_of(run.trajectory, run.training, analysis, replace(none, seed=1), whole)
    assert not list(other.select("rank_cost"))  # made otherwise, so it does not count


def test_a_check_of_refreshing_goes_on_after_one_of_ranks(tmp_path: Path) -> None:
    """The first check needs no gradients; the second makes them, and keeps what the first one tested."""
    run = rank_run(tmp_path / "rows", with_values(3.0, 2.0))
    analysis, first = checked(run)
    refresh = CheckOptions(tests=("refresh",))
    begun = begin_check(run.trajectory, run.training, analysis, OPTIONS, refresh, earlier=first).record
    alone = begin_check(run.trajectory, run.training, analysis, OPTIONS, refresh).record
    assert list(begun.select("rank_cost")) == list(first.select("rank_cost"))
    assert list(begun.select("refresh_lag")) == list(alone.select("refresh_lag"))
    assert any(begun.select("refresh_lag"))
    again = begin_check(run.trajectory, run.training, analysis, OPTIONS, refresh, earlier=begun).record
    assert again == begun


def test_both_ends_are_evaluated_once(tmp_path: Path) -> None:
    run, asked = rank_run(tmp_path / "rows", with_values(3.0, 2.0)), 0

    def counted() -> Tensor:
        nonlocal asked
        asked += 1
        return run.training.held_out()

    own = replace(run.training, held_out=counted)
    check_advice(tmp_path / "rows", own, options=OPTIONS, check=CheckOptions(tests=()))
    assert asked == 2
    ranks = len({line.labels["statistic"] for line in advise(checked(run)) if line.quantity == "mean_module_rank"})
    check_advice(tmp_path / "rows", own, options=OPTIONS, check=RANKS)
    assert asked == 2 + 2 + 2 * ranks  # each rank is evaluated with its largest directions, and with others


def test_over_recordings_the_interval_is_student_t(tmp_path: Path) -> None:
    runs = [rank_run(tmp_path / str(i), with_values(3.0, 2.0, 0.1 * i)) for i in range(3)]
    records = [record for i, run in enumerate(runs) for record in checked(run, i)]
    values = [record.value("rank_cost", statistic="k90") for record in records if record.measurement == "advice_check"]
    tested = line_of(advise(records), "mean_module_rank", statistic="k90").tested
    assert tested is not None
    assert tested.interval == "3 recordings"
    assert tested.value == pytest.approx(np.mean([v for v in values if v is not None]))
    assert tested.low is not None
    two = line_of(advise(records[:4]), "mean_module_rank", statistic="k90").tested
    assert two is not None
    assert two.outcome == "undecided"


def test_replicates_are_tested_together(tmp_path: Path) -> None:
    runs = [rank_run(tmp_path / str(i), with_values(3.0, 2.0, 0.1 * i)) for i in range(3)]
    folders, trainings = [run.trajectory.folder for run in runs], [run.training for run in runs]
    wanted = advise([record for i, run in enumerate(runs) for record in checked(run, i)])
    found = check_advice(folders, trainings, options=OPTIONS, check=RANKS)
    one, other = (line_of(lines, "mean_module_rank", statistic="k90").tested for lines in (found, wanted))
    assert one == other
    with pytest.raises(InputError, match="3 recordings and 1 trainings"):
        check_advice(folders, trainings[:1])


def test_shares_of_a_drop_have_the_error_of_the_examples() -> None:
    generator = np.random.default_rng(0)
    start = 5 + generator.standard_normal(400)
    end = start - 2 - 0.5 * generator.standard_normal(400)
    drop = LossDrop(start, end)
    half = (start + end) / 2
    assert drop.told
    assert drop.share(half).value == pytest.approx(0.5)
    assert drop.share(half).stderr == pytest.approx(0, abs=1e-9)  # the same share of every example
    other = end + 0.3 * generator.standard_normal(400)
    assert drop.share(other).stderr == pytest.approx(0.3 / np.sqrt(400) / 2, rel=0.2)
    assert drop.rise(other, end).value == pytest.approx(1 - float(drop.share(other).value or 0))
    flat = LossDrop(start, start + 0.01 * generator.standard_normal(400))
    assert not flat.told
    assert "did not fall" in (flat.share(half).reason or "")


def test_what_cannot_be_trained_again_is_refused(tmp_path: Path) -> None:
    model = Layer()
    own = training(model, with_values(1.0))
    unknown = recorded(tmp_path / "unknown", own, torch.optim.RMSprop(model.parameters(), lr=0.01), 6)
    with pytest.raises(InputError, match="cannot be trained again"):
        check_advice(unknown.folder, own)
    sketched = tmp_path / "sketched"
    Recorder(
        ParameterSpace.trainable(own.model),
        sketched,
        dtype=torch.float64,
        sketch=Sketch(64, 32),
    ).close()
    with pytest.raises(InputError, match="sketched"):
        check_advice(sketched, own)
    known = recorded(tmp_path / "known", own, torch.optim.SGD(model.parameters(), lr=0.01), 6)
    with pytest.raises(InputError, match="lacks"):
        check_advice(known.folder, training(adapted(2), with_values(1.0)), options=OPTIONS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"loss": lambda step: torch.ones(4).requires_grad_()}, r"loss gave a tensor of shape \(4,\); give one number"),
        ({"loss": lambda step: 0.5}, "loss gave a float"),
        ({"loss": lambda step: torch.ones(())}, "without a gradient"),
        ({"held_out": lambda: [0.5, 0.6]}, "held_out gave a list"),
        ({"held_out": lambda: torch.ones(())}, r"held_out gave a tensor of shape \(\)"),
        ({"held_out": lambda: torch.ones(1)}, "of at least 2"),
    ],
)
def test_training_functions_that_give_something_else_are_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    model = Layer()
    own = training(model, with_values(1.0))
    recorded(tmp_path / "rows", own, torch.optim.SGD(model.parameters(), lr=0.01), 6)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with pytest.raises(InputError, match=words):
        check_advice(tmp_path / "rows", replace(own, **change), options=OPTIONS)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


class Detour(torch.nn.Module):
    """A layer to learn beside weights that nothing depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.aside = Layer(), torch.nn.Parameter(torch.zeros(20, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)  # type: ignore[no-any-return]


def spans(folder: Path, own: Training) -> list[Advice]:
    parameters = own.model.parameters()
    recorded(folder, own, torch.optim.SGD(parameters, lr=0.01), 60)
    before = [p.detach().clone() for p in own.model.parameters()]
    lines = [line for line in check_advice(folder, own, options=OPTIONS) if line.quantity == "steps_to_span"]
    assert all(torch.equal(a, b) for a, b in zip(before, own.model.parameters(), strict=True))
    assert all(p.grad is None for p in own.model.parameters())
    assert {line.standing for line in lines if not line.testable} == {"-"}
    return [line for line in lines if line.testable]


def test_a_span_that_brings_its_share_back_passes(tmp_path: Path) -> None:
    for line in spans(tmp_path / "rows", training(Layer(), with_values(3.0, 2.5, 2.0, 1.0))):
        assert line.standing == "passed"
        assert line.tested is not None
        assert line.tested.low is not None
        assert line.tested.null is not None
        assert line.tested.blind is not None
        assert line.tested.low >= float(line.labels["share"])
        assert max(line.tested.null, line.tested.blind) < 0.3
        assert "brought back" in line.sentence


def test_first_updates_that_went_elsewhere_fail(tmp_path: Path) -> None:
    """Ten updates of weights that nothing depends on are most of the way, and bring nothing back."""
    model = Detour()
    learning = training(model, with_values(3.0, 2.5, 2.0))
    pull = torch.randn(10, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(step: int) -> Tensor:
        return 400 * pull[step] @ model.aside if step < 10 else learning.loss(step)

    for line in spans(tmp_path / "rows", replace(learning, loss=loss)):
        assert line.standing == "failed"
        assert line.tested is not None
        assert line.tested.value == pytest.approx(0, abs=0.05)
        assert "share brought back, at least" in line.sentence
        assert "more than random directions: no" in line.sentence


def test_the_first_update_tells_whether_the_training_is_the_recorded_one(tmp_path: Path) -> None:
    own = training(Layer(), with_values(3.0, 2.5, 2.0, 1.5))
    trajectory = recorded(tmp_path / "rows", own, torch.optim.Adam(own.model.parameters(), lr=0.01), 12)
    for other, low, high in (
        (own, 1 - 1e-9, 1 + 1e-9),
        (replace(own, loss=lambda step: own.loss(step + 50)), 0.2, 0.99),
    ):
        run = CheckedRun.of(trajectory, other, trajectory.optimizer.groups[0].rule)
        found = first_update_cosine(run)
        assert found.value is not None
        assert low <= found.value <= high
        told = remarks([*checked(run)])
        assert any("trained again" in words and f"{found.value:.2f}" in words for words in told)


def test_a_run_that_learned_nothing_has_nothing_to_bring_back(tmp_path: Path) -> None:
    own = training(Layer(), with_values(1.0))
    noise = replace(own, loss=lambda step: 0.0 * own.loss(step) + pulled(own.model, step))
    for line in spans(tmp_path / "rows", noise):
        assert line.standing == "undecided"
        assert "did not fall" in line.sentence


def pulled(model: torch.nn.Module, step: int) -> Tensor:
    """A loss whose gradients are noise."""
    (weight,) = model.parameters()
    return (weight * torch.randn(weight.shape, generator=torch.Generator().manual_seed(step), dtype=weight.dtype)).sum()


def straight(model: torch.nn.Module, target: Tensor) -> Training:
    """Training whose gradient always points straight at the target: one plane is as good as any number of them."""
    (weight,) = model.parameters()
    return replace(training(model, target), loss=lambda step: (weight - target).square().sum())


def of_all_sizes(model: torch.nn.Module, target: Tensor) -> Training:
    """Inputs of several sizes, whose directions are learned one after the other: a plane is soon of no use."""
    sizes = torch.tensor([3, 1.5, 0.75, 0.4, 0.4, 0.4, 0.4, 0.4], dtype=torch.float64)
    return training(model, target, sizes)


@pytest.mark.parametrize(
    ("made", "outcome", "missed"),
    [
        (training, "passed", None),
        (straight, "failed", "better than never: no"),
        (of_all_sizes, "failed", "no worse than every 2 steps: no"),
    ],
)
def test_a_refresh_passes_if_it_helps_and_more_of_it_does_not(
    tmp_path: Path, made: Callable[[torch.nn.Module, Tensor], Training], outcome: str, missed: str | None
) -> None:
    model = Layer()
    own = made(model, with_values(3.0, 2.5, 2.0, 1.5))
    trajectory = recorded(tmp_path / "rows", own, torch.optim.SGD(model.parameters(), lr=0.01), 60, gradients=True)
    analysis = analyze_recording(trajectory, "layer", 0, OPTIONS)
    told = Quantity("refresh_lag", 10.2, "steps", stderr=1.0, labels={"share": 0.9, "from": "all", "rank": 1})
    others = tuple(q for q in analysis.quantities if q.name not in ("refresh_lag", "steps_to_span"))
    analysis = replace(analysis, quantities=(*others, told))
    tests = record_of(trajectory, own, analysis)
    line = line_of(advise([analysis, tests]), "refresh_lag", share=0.9, **{"from": "all"})
    assert line.standing == outcome
    assert line.tested is not None
    assert line.tested.interval == "3 repeated trainings"
    for words in ("made anew every 10 steps", "every 2 steps", "every 50 steps", "never", missed or "ended at"):
        assert words in line.sentence
    doubtful = replace(analysis, quantities=(*others, replace(told, stderr=10.0)))
    assert line_of(advise([doubtful, tests]), "refresh_lag", share=0.9, **{"from": "all"}).standing == "no advice"


def test_times_between_refreshes_that_are_compared() -> None:
    assert refresh_arms(88, 400) == {"advised": 88, "fifth": 18, "five_fold": None, "galore": 200, "never": None}
    assert refresh_arms(2, 1000) == {"advised": 2, "fifth": 1, "five_fold": 10, "galore": 200, "never": None}


def test_the_optimizer_of_a_rule_has_that_rule() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3))
    for rule in (
        UpdateRule("adamw", (0.1, 0.2), 0.8, 0.99, 1e-6, 0.3),
        UpdateRule("sgd", (0.1, 0.2), 0.8, weight_decay=0.3, dampening=0.1),
        UpdateRule("sgd", (0.1, 0.2), 0.8, nesterov=True),
    ):
        assert UpdateRule.of(rule.optimizer([parameter]), rule.step_sizes) == rule
        assert rule.optimizer([parameter], weight_decay=False).param_groups[0]["weight_decay"] == 0


@pytest.mark.parametrize("made", [training, of_all_sizes])
def test_gradients_that_are_made_again_are_those_that_would_have_been_recorded(
    tmp_path: Path, made: Callable[[torch.nn.Module, Tensor], Training]
) -> None:
    model = Layer()
    own = made(model, with_values(3.0, 2.5, 2.0, 1.5))
    figures = []
    for gradients in (True, False):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        trajectory = recorded(tmp_path / str(gradients), own, optimizer, 60, gradients=gradients)
        analysis = analyze_recording(trajectory, "layer", 0, OPTIONS)
        check = CheckOptions(tests=("refresh",))
        begun = begin_check(trajectory, own, analysis, OPTIONS, check).record
        assert bool(list(begun.select("refresh_lag"))) != gradients
        lines = [line for line in advise([analysis, begun]) if line.quantity == "refresh_lag"]
        figures.append([(line.value, line.low, line.reason, line.null) for line in lines])
        assert any("made again" in words for words in remarks([analysis, begun])) != gradients
    for wanted, found in zip(*figures, strict=True):
        assert found[2:] == wanted[2:]
        known = [(a, b) for a, b in zip(found[:2], wanted[:2], strict=True) if a is not None and b is not None]
        assert [a for a, _ in known] == pytest.approx([b for _, b in known], rel=1e-5)
        assert found[:2].count(None) == wanted[:2].count(None)


def test_a_training_whose_next_plane_cannot_be_made_has_diverged(tmp_path: Path) -> None:
    own = training(Layer(), with_values(3.0, 2.5, 2.0, 1.5))
    trajectory = recorded(tmp_path / "rows", own, torch.optim.SGD(own.model.parameters(), lr=0.01), 12)
    run = CheckedRun.of(trajectory, own, trajectory.optimizer.groups[0].rule)
    plane = from_vectors(trajectory.updates(1, 2), "first")

    def fails() -> Basis:
        raise NonFiniteError("no plane")

    found = trained_inside(run, Plane(plane, 5, fails), 1.0, lambda: None)
    assert found.validation == math.inf
    assert np.array_equal(found.losses, run.drop.start)
    assert not run.space.read().any()  # the weights came back


def test_what_is_no_test_is_refused() -> None:
    with pytest.raises(InputError, match="Did you mean 'refresh'"):
        CheckOptions(tests=("refesh",))


def test_fewer_than_three_repeats_are_refused() -> None:
    with pytest.raises(InputError, match="repeats is 2"):
        CheckOptions(repeats=2)


@pytest.mark.parametrize(
    ("more", "standing", "words"),
    [
        ({"value": 34.0}, "untested", "Untested."),
        ({"value": 34.0, "low": 0.0, "high": 248.0}, "no advice", "its interval reaches 0"),
        ({"value": 34.0, "low": 5.0, "high": 48.0}, "untested", "Untested."),
        ({"value": None, "reason": "> 160 (largest lag; it does not cross)"}, "no advice", "did not cross"),
        ({"value": 34.0, "reason": "2 of 5 recordings: > 160 (x)"}, "no advice", "did not cross in 2 of 5 recordings"),
        ({"value": 34.0, "testable": False}, "-", "after"),
    ],
)
def test_what_is_no_advice_says_so(more: dict[str, Any], standing: str, words: str) -> None:
    usual = {"low": None, "high": None, "interval": "", "null": None, "unit": "steps", "figure": "", "testable": True}
    line = Advice("", "", **{**usual, "quantity": "refresh_lag", "says": "after 34 steps", **more})
    assert line.standing == standing
    assert words.lower() in line.sentence.lower()


@pytest.mark.parametrize(
    ("best", "tried"),
    [
        (1.0, [0.3, 1.0, 3.0]),
        (0.3, [0.3, 1.0, 3.0]),
        (3.0, [0.3, 1.0, 3.0, 9.0]),
        (9.0, [0.3, 1.0, 3.0, 9.0, 27.0]),
        (100.0, [0.3, 1.0, 3.0, 9.0, 27.0]),
        (math.nan, [0.3, 1.0, 3.0]),
    ],
)
def test_longer_steps_are_tried_while_the_longest_is_best(best: float, tried: list[float]) -> None:
    """Losses fall up to the best step size and rise from there on; with nan every one diverges."""
    used = []

    def train(factor: float) -> Inside:
        used.append(factor)
        loss = abs(math.log(factor / best))
        return Inside(np.zeros(2), loss if math.isfinite(loss) else math.inf, factor)

    found = best_of(train, (0.3, 1.0, 3.0))
    assert used == pytest.approx(tried)
    assert found.factor == pytest.approx(min(best, 27.0) if best == best else 0.3)
