"""Directions against closed forms and other libraries; effects and prices against sums by hand; the measurement."""

from __future__ import annotations

import math
from collections import Counter
from copy import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from decoders import decoder, hook_count
from problems_table import SyntheticProblem, WordsProblem, trained_settings
from torch import Tensor
from torch.nn import functional

from lineament.errors import InputError
from lineament.measurements import steering
from lineament.measurements.steering_effects import _ratio_figure
from lineament.measurements.steering_nulls import NullSteps
from lineament.parameters import ParameterSpace
from lineament.problems.problem import Batch, at_positions
from lineament.records import Record
from lineament.settings.steering import SteeringSettings
from lineament.steering.directions import caa, cosine, pca_of_differences, probe_direction
from lineament.steering.effects import NeutralText, answers, calibrate
from lineament.steering.steered import steered
from lineament.steering.vector import SteeringVector
from lineament.steering.weight_step import step_direction
from lineament.streams import Streams
from lineament.study.case import Case
from lineament.study.files import StudyFiles
from lineament.study.study import OperatingStudy, operating_study
from lineament.vectors.gradients import mean_gradient


def classes(n: int = 4000, width: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two normal classes of one covariance, their mean difference and the direction of their log odds."""
    generator = np.random.default_rng(0)
    factor = generator.standard_normal((width, width)) / 2 + np.eye(width)
    gap = generator.standard_normal(width)
    positive = generator.standard_normal((n, width)) @ factor.T + gap
    negative = generator.standard_normal((n, width)) @ factor.T
    odds = np.linalg.solve(factor @ factor.T, gap)
    return tuple(torch.from_numpy(x) for x in (positive, negative, gap, odds))  # type: ignore[return-value]


def test_caa_is_the_difference_of_means() -> None:
    positive, negative, gap, _ = classes()
    found = caa(positive.float(), negative.float())
    assert torch.allclose(found, positive.mean(dim=0) - negative.mean(dim=0), atol=1e-6)
    assert float((found - gap).norm()) < 0.15


def test_probe_points_along_the_log_odds_and_not_along_the_means() -> None:
    """For normal classes of equal covariance the log odds' gradient is S^-1 (mu+ - mu-), Fisher's direction."""
    positive, negative, gap, odds = classes()
    found = probe_direction(positive, negative)
    assert float(cosine(found, odds)) > 0.99
    assert float(cosine(found, odds)) > float(cosine(gap, odds)) + 0.05
    assert float(found.norm()) == pytest.approx(float(caa(positive, negative).norm()))


def test_pca_finds_a_planted_axis_and_its_sign() -> None:
    generator = np.random.default_rng(1)
    axis = torch.from_numpy(generator.standard_normal(8))
    noise = torch.from_numpy(generator.standard_normal((2, 300, 8)))
    positive, negative = 0.1 * noise[0] + axis, 0.1 * noise[1]
    assert float(cosine(pca_of_differences(positive, negative), axis)) > 0.999
    assert float(cosine(pca_of_differences(negative, positive), axis)) < -0.999
    uneven = pca_of_differences(positive, negative[:200])
    assert float(cosine(uneven, axis)) > 0.999


def test_a_contrast_needs_both_classes() -> None:
    with pytest.raises(InputError, match="0 positive and 3 negative"):
        caa(torch.empty(0, 4), torch.ones(3, 4))


def language_problem() -> WordsProblem:
    model = decoder("llama").requires_grad_(True)

    def logits(batch: Batch) -> Tensor:
        return at_positions(
            model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits, batch.positions
        )

    return WordsProblem(model, ParameterSpace.trainable(model), logits)


def test_answers_by_hand() -> None:
    problem = language_problem()
    batch = problem.sample("words", 9, Streams(0).generator("x"))
    batch = replace(batch, choices=(2, 5, 7), targets=torch.tensor([2, 5, 7] * 3)[:, None])
    labels = torch.tensor([2, 2, 5, 5, 7, 7, 2, 5, 7])
    found = answers(problem, batch, labels)
    with torch.no_grad():
        logits = problem.logits(batch)[:, 0].double()
    for i, label in enumerate(labels.tolist()):
        others = [float(logits[i, c]) for c in (2, 5, 7) if c != label]
        assert float(found.differences[i]) == pytest.approx(float(logits[i, label]) - max(others))
        said = max((2, 5, 7), key=lambda c: float(logits[i, c]))
        assert float(found.correct[i]) == float(said == int(batch.targets[i, 0]))
        assert float(found.losses[i]) == pytest.approx(-float(logits[i].log_softmax(0)[batch.targets[i, 0]]))


def test_kl_is_the_mean_over_all_real_positions() -> None:
    problem = language_problem()
    batch = problem.sample("words", 9, Streams(0).generator("x"))
    neutral = NeutralText(problem, batch)
    assert neutral.kl() == 0
    vector = SteeringVector({2: torch.linspace(-1, 1, 16)})
    with torch.no_grad():
        before = problem.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits.double()
        with steered(problem.model, vector, 2.0):
            after = problem.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits.double()
            found = neutral.kl()
    each = functional.kl_div(after.log_softmax(-1), before.log_softmax(-1), log_target=True, reduction="none").sum(-1)
    assert found == pytest.approx(float(each[batch.attention_mask.bool()].mean()), rel=1e-4)
    assert found > 0.01


def test_calibration_meets_the_price_or_says_unreachable() -> None:
    problem = language_problem()
    neutral = NeutralText(problem, problem.sample("words", 9, Streams(0).generator("x")))
    vector = SteeringVector({2: torch.linspace(-1, 1, 16)})
    found = calibrate(problem, vector, neutral, 0.05, 32.0)
    assert found.coefficient is not None
    assert found.kl == pytest.approx(0.05, rel=0.05)
    with steered(problem.model, vector, found.coefficient):
        assert neutral.kl() == pytest.approx(found.kl, rel=1e-5)
    high = calibrate(problem, vector, neutral, 1e4, 32.0)
    assert high.coefficient is None
    assert 0 < high.kl < 1e4
    assert high.largest == 32.0
    assert hook_count(problem.model) == 0


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_price_does_not_depend_on_how_the_vector_is_scaled(scale: float) -> None:
    problem = language_problem()
    neutral = NeutralText(problem, problem.sample("words", 9, Streams(0).generator("x")))
    direction = torch.linspace(-1, 1, 16)
    found = calibrate(problem, SteeringVector({2: scale * direction}), neutral, 0.05, 32.0 / scale)
    plain = calibrate(problem, SteeringVector({2: direction}), neutral, 0.05, 32.0)
    far = calibrate(problem, SteeringVector({2: direction}), neutral, 0.05, 32.0 * 1024 * 8)
    assert found.coefficient is not None
    assert plain.coefficient is not None
    assert far.coefficient is not None
    assert found.coefficient * scale == pytest.approx(plain.coefficient, rel=0.02)
    assert found.kl == pytest.approx(0.05, rel=0.05)
    assert far.kl == pytest.approx(0.05, rel=0.05)  # also when the search begins far beyond the price


def test_a_model_without_numbers_costs_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = language_problem()
    neutral = NeutralText(problem, problem.sample("words", 3, Streams(0).generator("x")))
    monkeypatch.setattr(problem, "_logits", lambda batch: torch.full((*batch.positions.shape, 13), torch.nan))
    assert neutral.kl() == math.inf


def test_each_prompt_has_its_own_other_answer() -> None:
    problem = language_problem()
    batch = problem.sample("words", 3, Streams(0).generator("x"))
    batch = replace(batch, choices=tuple(range(13)), targets=torch.tensor([[2], [5], [7]]))
    others = torch.tensor([3, 4, 6])
    found = answers(problem, batch, batch.targets[:, 0], others)
    with torch.no_grad():
        logits = problem.logits(batch)[:, 0].double()
    expected = logits.gather(1, batch.targets)[:, 0] - logits.gather(1, others[:, None])[:, 0]
    assert torch.allclose(found.differences, expected)
    assert torch.equal(found.correct, (expected > 0).double())


SMALL = SteeringSettings(
    examples=64,
    step_examples=32,
    folds=4,
    random_directions=6,
    shuffled_steps=3,
    sizes=(0.01, 1.0),
    doses=(-1.0, 1.0),
    neutral_examples=8,
    effect_directions=2,
)


@pytest.fixture(scope="module")
def study(own_cache: None, tmp_path_factory: pytest.TempPathFactory) -> OperatingStudy:
    settings = replace(trained_settings(), steering=SMALL)
    problem = SyntheticProblem(settings, 0)
    return operating_study(Case(problem, settings, "parity", 0, StudyFiles.inside(tmp_path_factory.mktemp("steering"))))


@pytest.fixture(scope="module")
def record(study: OperatingStudy) -> Record:
    theta = study.problem.parameters.read()
    found = steering.measure(study)
    assert torch.equal(study.problem.parameters.read(), theta)
    assert hook_count(study.problem.model) == 0
    return found


def test_the_measurement_holds_what_the_protocol_asks_for(record: Record) -> None:
    quantities = {figure.name for figure in record.quantities}
    assert quantities <= set(record.definitions)
    cosines = list(record.select("step_cosine", step="raw", shift="jacobian"))
    assert [f.labels["layer"] for f in cosines] == [1]
    assert all(f.null is not None and f.stderr is not None and abs(f.value) <= 1 for f in cosines if f.value)
    n_draws = 6 + 3 + 2  # weight noise, shuffled labels, other tasks
    assert record.arrays["null_cosines"].shape == (n_draws, 1)
    best = record.select("best_layer_cosine", step="raw")
    draws = [f.value for f in record.select("null_best_layer_cosine") if f.value is not None]
    assert len(draws) == n_draws
    counts = Counter(f.labels["null"] for f in record.select("null_best_layer_cosine"))
    assert counts == {"random_weights": 6, "shuffled_labels": 3, "other_tasks": 2}
    for figure in best:
        if figure.value is not None:
            assert figure.null == pytest.approx(max(draws))
            assert figure.labels["n_below"] == sum(draw < figure.value for draw in draws)


def null_steps(study: OperatingStudy, label: int | None = 1) -> NullSteps:
    prompts = study.problem.sample("parity", 32, Streams(0).generator("prompts")).last_target()
    step = step_direction(mean_gradient(study.problem, prompts))
    return NullSteps(study, step, prompts, label)


def test_weight_noise_has_the_step_s_norm_in_every_tensor(study: OperatingStudy) -> None:
    """A cosine does not know the total norm, and tensors differ in how far they move activations."""
    steps = null_steps(study)
    first, second = steps.random(0), steps.random(1)
    for part in study.problem.parameters.slices:
        assert float(first[part].norm()) == pytest.approx(float(steps.step[part].norm()), rel=1e-5)
    assert float(first.norm()) == pytest.approx(1.0)
    assert abs(float(first @ second)) < 0.2
    assert abs(float(first @ steps.step.double())) < 0.2


def test_a_step_on_another_task_s_prompts_leads_to_the_same_label(study: OperatingStudy) -> None:
    steps = null_steps(study, label=3)
    found = steps.other_task("copy")
    generator = study.streams.child("steering", "other task").generator("copy")
    prompts = study.problem.sample("copy", 32, generator).last_target()
    logits = study.problem.logits(prompts)[:, 0]
    loss = torch.nn.functional.cross_entropy(logits, torch.full((32,), 3))
    expected = -study.problem.parameters.gradient(loss).double()
    assert float(found.double() @ expected / expected.norm()) == pytest.approx(1.0, abs=1e-5)
    assert set(steps.other_tasks) == set(study.problem.tasks) - {"parity"}


def test_what_other_tasks_cannot_give_is_said(study: OperatingStudy) -> None:
    assert null_steps(study).why_no_other_task is None
    assert "answer of its own" in (null_steps(study, label=None).why_no_other_task or "")
    alone = replace(study, problem=copy(study.problem))
    alone.problem.tasks = ("parity",)
    assert null_steps(alone).why_no_other_task == "the problem has one task alone"
    figures = list(steering._null_figures(usable_reference(), null_steps(alone), [], torch.zeros(0, 1)))
    assert [(f.value, f.labels["null"], f.reason) for f in figures] == [
        (None, "other_tasks", "the problem has one task alone")
    ]


def usable_reference() -> steering.Reference:
    """Of one layer, which agrees with itself."""
    one = torch.ones(1)
    return steering.Reference(one[None], one[None, None], one, one, one[None, None], one.bool())


def test_dose_zero_changes_nothing_and_kl_grows(record: Record) -> None:
    if record.value("best_layer_cosine", step="raw") is None:
        pytest.fail("the small model's CAA vector should agree with itself")
    for name in ("caa", "step", "random"):
        assert record.value("dose_logit_difference", vector=name, dose=0.0) == 0.0
        assert record.value("dose_kl", vector=name, dose=0.0) == 0.0
        kl = record.value("dose_kl", vector=name, dose=1.0)
        assert kl is not None
        assert kl > 0


def test_small_steps_are_linear_and_large_ones_less_so(record: Record) -> None:
    near, far = (record.value("linearity_norm_ratio", layer=1, size=size) for size in (0.01, 1.0))
    assert near is not None
    assert far is not None
    assert near == pytest.approx(1, abs=0.05)
    assert abs(near - 1) < abs(far - 1) + 0.01


def test_two_measurements_of_one_study_are_equal_to_the_bit(
    study: OperatingStudy, record: Record, tmp_path: Path
) -> None:
    again = steering.measure(study)
    again.save(tmp_path / "a")
    record.save(tmp_path / "b")
    for first in sorted((tmp_path / "a").iterdir()):
        assert first.read_bytes() == (tmp_path / "b" / first.name).read_bytes()


def test_no_reference_is_said_when_halves_disagree(study: OperatingStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steering, "LEAST_AGREEMENT", 1.1)
    found = steering.measure(study)
    figure = next(found.select("best_layer_cosine", step="raw"))
    assert figure.value is None
    assert "agrees with itself" in (figure.reason or "")
    assert not list(found.select("effect_ratio"))


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = torch.from_numpy(np.random.default_rng(0).standard_normal(20))
    without = (values.sum() - values) / 19
    assert float(steering._jackknife(without)) == pytest.approx(float(values.std() / math.sqrt(20)))


@pytest.mark.parametrize(("caa_effect", "defined"), [(1.0, True), (-1.0, False), (0.0, False)])
def test_a_ratio_needs_an_effect_to_be_a_share_of(study: OperatingStudy, caa_effect: float, defined: bool) -> None:
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal(64)) / 10
    steerer = SimpleNamespace(study=study, best=1)
    figure = _ratio_figure(steerer, 1, {"caa": caa_effect + noise, "step": 0.5 * caa_effect + noise})  # type: ignore[arg-type]
    assert (figure.value is not None) is defined
    if figure.value is not None:
        assert figure.value == pytest.approx(0.5, abs=0.05)
    else:
        assert "does not steer towards its label" in (figure.reason or "")


def test_equal_rows_count_once() -> None:
    rows = torch.tensor([[1, 2], [3, 4], [1, 2], [5, 6], [3, 4]])
    assert steering._first_of_each(rows).tolist() == [0, 1, 3]
