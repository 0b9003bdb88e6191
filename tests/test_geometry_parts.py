"""Rotation of planes, additivity of shifts and weight steps as steering, on toys that have all of it in closed form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from itertools import permutations
from pathlib import Path

import numpy as np
import oracles
import pytest
import torch
from problems_table import CASES, N_WORDS, SyntheticProblem, WordsProblem, seeded, trained_settings
from torch import Tensor, nn

from lineament.measurements.crossings import crossing
from lineament.measurements.gradient_planes import PARTS
from lineament.measurements.local_geometry import activations, correspondence, rotation
from lineament.measurements.local_geometry.activations import activation_additivity, activation_cost
from lineament.measurements.local_geometry.correspondence import (
    correspondence_cost,
    mean_vector_share,
    steering_correspondence,
    tried_layers,
)
from lineament.measurements.local_geometry.geometry import Geometry, TaskGeometry, at_operating_point
from lineament.measurements.local_geometry.rotation import half_life, median_life, plane_rotation, rotation_cost
from lineament.measurements.local_geometry.shifts import defect, moved, shift_of, summed_in_weights
from lineament.measurements.steering_nulls import matched_noise
from lineament.parameters import ParameterSpace
from lineament.problems.adapters import attach_lora
from lineament.problems.factor_pairs import factor_pairs
from lineament.problems.problem import Batch, Problem, Split, at_positions
from lineament.records import ALL_TASKS, Quantity
from lineament.settings.geometry import GeometrySettings
from lineament.settings.measurement import MeasureSettings
from lineament.settings.model import LoraSettings
from lineament.settings.settings import Settings
from lineament.settings.training import OperatingSettings, RecoverySettings
from lineament.streams import Streams
from lineament.study.case import Case
from lineament.study.files import StudyFiles
from lineament.study.passes import FORWARD_PASSES
from lineament.study.points import START, TRAINED
from lineament.study.study import OperatingStudy, operating_study
from lineament.study.training import minibatches, task_batches
from lineament.vectors.gradients import mean_gradient

WIDTH, PROMPTS = 6, 10


class Bent(nn.Module):
    """x -> W x + b + bend (W x + b)^2."""

    def __init__(self, bend: float) -> None:
        super().__init__()
        self.inner, self.bend = nn.Linear(WIDTH, WIDTH), bend

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return y + self.bend * y**2


class Toy(nn.Module):
    """Embedding, one bent block and a head, in float64; no token sees another."""

    def __init__(self, bend: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(N_WORDS, WIDTH)
        self.blocks = nn.ModuleList([Bent(bend)])
        self.head = nn.Linear(WIDTH, N_WORDS, bias=False)
        self.double()
        with torch.no_grad():  # prompts have much in common, so that mean shifts are no noise
            self.embed.weight[:, 0] += 4

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class TwoTasks(WordsProblem):
    """Two tasks, each with one answer to all its prompts."""

    tasks = ("left", "right")

    def fixed(self, task: str, split: Split) -> Batch:
        batch = self.sample(task, PROMPTS, Streams(1).generator(split, task))
        return replace(batch, targets=torch.full_like(batch.targets, 1 + self.tasks.index(task)))


def toy_problem(bend: float, names: Sequence[str] = ("blocks.0.inner.weight",)) -> TwoTasks:
    model = seeded(lambda: Toy(bend))
    return TwoTasks(
        model, ParameterSpace(model, names), lambda b: at_positions(model(input_ids=b.input_ids), b.positions)
    )


def lora_problem(bend: float) -> TwoTasks:
    model = attach_lora(seeded(lambda: Toy(bend)), LoraSettings(rank=2, alpha=6), 3, ("inner",)).double()
    space = ParameterSpace.trainable(model, "lora_factors")
    problem = TwoTasks(model, space, lambda b: at_positions(model(input_ids=b.input_ids), b.positions))
    space.write(vector_of(problem, "theta", 0.5))
    return problem


def vector_of(problem: Problem, name: str, size: float = 0.3) -> Tensor:
    return size * torch.from_numpy(Streams(9).generator(name).standard_normal(problem.parameters.n_params))


def towards(problem: Problem, task: str) -> Tensor:
    """A move that lowers the loss on the prompts of a task."""
    gradient = mean_gradient(problem, problem.fixed(task, "held_out"))
    return -3 * gradient / gradient.norm()


def task_of(problem: Problem, name: str, vector: Tensor) -> TaskGeometry:
    """A task whose batches and gradients, which nothing here looks at, are all the same and zero."""
    zero, batch = torch.zeros_like(vector), problem.fixed(problem.tasks[0], "held_out")

    def filler(field: str) -> Tensor | Batch:
        if "halves" in field:
            return torch.stack([zero, zero])
        return zero if "gradient" in field else batch

    others = {field.name: filler(field.name) for field in fields(TaskGeometry)}
    return TaskGeometry(**{**others, "name": name, "task_vector": vector})


def geometry_of(
    problem: Problem, folder: Path, vectors: dict[str, Tensor] | None = None, settings: Settings | None = None
) -> Geometry:
    """A geometry whose task vectors are given, and whose batches and gradients nothing here looks at."""
    theta = problem.parameters.read()
    settings = settings or replace(Settings(), geometry=GeometrySettings(prompts=PROMPTS))
    study = OperatingStudy(
        problem, settings, ALL_TASKS, 0, StudyFiles.inside(folder), points={START: theta, TRAINED: theta}
    )
    vectors = vectors or {task: towards(problem, task) for task in problem.tasks}
    tasks = [task_of(problem, name, vector) for name, vector in vectors.items()]
    return Geometry(study, tuple(tasks), {}, 1.0)


def only(figures: Sequence[Quantity], name: str, **labels: str | float) -> Quantity:
    (found,) = [figure for figure in figures if figure.matches(name, **labels)]
    return found


def values(figures: Sequence[Quantity], name: str, **labels: str | float) -> list[float]:
    found = [figure.value for figure in figures if figure.matches(name, **labels)]
    assert found
    assert None not in found
    return found  # type: ignore[return-value]


def last_inputs(problem: TwoTasks, task: str) -> Tensor:
    """What the toy's block sees at the last target of the held-out prompts, (PROMPTS, WIDTH)."""
    batch = problem.fixed(task, "held_out")
    model = getattr(problem.model, "base_model", problem.model)
    embed = next(m for m in model.modules() if isinstance(m, nn.Embedding))
    return embed(batch.input_ids.gather(1, batch.positions)[:, 0]).detach()


# ---- additivity of shifts


def test_shifts_of_a_model_that_is_linear_in_its_weights_add_up(tmp_path: Path) -> None:
    figures = list(activation_additivity(geometry_of(toy_problem(0.0), tmp_path)))
    assert max(values(figures, "activation_defect")) < 1e-12
    assert {figure.labels["sum"] for figure in figures if "sum" in figure.labels} == {"weights"}
    medians = [figure for figure in figures if figure.name == "median_activation_defect"]
    assert len(medians) == len(activations.SCALES) * len(activations.KINDS)
    assert all(figure.value is not None and figure.null is not None and figure.null < 1e-12 for figure in medians)


def test_the_defect_of_a_bent_model_is_its_cross_term(tmp_path: Path) -> None:
    bend, problem = 0.2, toy_problem(0.2)
    geometry = geometry_of(problem, tmp_path)
    before = problem.parameters.read()
    figures = list(activation_additivity(geometry))
    assert torch.equal(problem.parameters.read(), before)
    x = torch.cat([last_inputs(problem, task) for task in problem.tasks])
    y = problem.model.blocks[0].inner(x).detach()
    a, b = (x @ task.task_vector.view(WIDTH, WIDTH).T for task in geometry.tasks)

    def shift(step: Tensor) -> Tensor:
        return (step + bend * (2 * y * step + step**2)).mean(dim=0)

    for scale in activations.SCALES:
        cross = (2 * bend * scale**2 * a * b).mean(dim=0).norm()
        exact = float(cross / (shift(scale * a).norm() + shift(scale * b).norm()))
        found = only(figures, "activation_defect", of="activation", scale=scale)
        assert found.value == pytest.approx(exact, rel=1e-9)
        assert only(figures, "median_activation_defect", of="activation", scale=scale).value == found.value
        residual = [2 * bend * scale**2 * torch.cat([(a * b)[i:PROMPTS:2], (a * b)[PROMPTS + i :: 2]]) for i in (0, 1)]
        apart = float((residual[0].mean(dim=0) - residual[1].mean(dim=0)).norm()) / 2
        floor = only(figures, "activation_defect_halves", of="activation", scale=scale)
        total = shift(scale * a).norm() + shift(scale * b).norm()
        assert floor.value == pytest.approx(apart / float(total), rel=1e-9)


def test_factors_that_are_added_have_cross_terms_and_weights_have_none(tmp_path: Path) -> None:
    problem = lora_problem(0.0)
    geometry = geometry_of(problem, tmp_path)
    figures = list(activation_additivity(geometry))
    assert max(values(figures, "activation_defect", sum="weights")) < 1e-12
    assert only(figures, "median_activation_defect", sum="weights", of="activation", scale=1.0).null < 1e-12
    (pair,), theta = factor_pairs(problem.parameters), problem.parameters.read()
    a, b = theta[pair.a].view(pair.a_shape), theta[pair.b].view(pair.b_shape)
    steps = [
        (v[pair.a].view(pair.a_shape), v[pair.b].view(pair.b_shape)) for v in (t.task_vector for t in geometry.tasks)
    ]
    x = torch.cat([last_inputs(problem, task) for task in problem.tasks]).mean(dim=0)
    for scale in activations.SCALES:
        cross = scale**2 * (steps[0][1] @ steps[1][0] + steps[1][1] @ steps[0][0])
        alone = [(b + scale * db) @ (a + scale * da) - b @ a for da, db in steps]
        exact = float((cross @ x).norm() / sum((change @ x).norm() for change in alone))
        found = only(figures, "activation_defect", sum="factors", of="activation", scale=scale)
        assert found.value == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("name", ["transformer_lora", "llama_lora"])
def test_a_sum_in_the_weights_is_that_of_a_dense_merge_and_leaves_no_trace(name: str) -> None:
    case = CASES[name]
    problem = case.make()
    problem.model.double()
    space, batch = problem.parameters, case.batch(problem, 5)
    theta, moves = space.read(), [vector_of(problem, name, 0.1) for name in ("first", "second")]
    plain = problem.logits(batch)
    with summed_in_weights(space, moves):
        hooked = problem.logits(batch)
    assert torch.equal(problem.logits(batch), plain)
    modules = dict(space.module.named_modules())
    with torch.no_grad():
        for pair in factor_pairs(space):
            weight = modules[pair.module].base_layer.weight
            for move in moves:
                ends = [
                    end[pair.b].view(pair.b_shape) @ end[pair.a].view(pair.a_shape) for end in (theta + move, theta)
                ]
                weight += pair.scale * (ends[0] - ends[1])
    torch.testing.assert_close(hooked, problem.logits(batch), rtol=1e-11, atol=1e-12)
    assert (hooked - plain).norm() > 0.01


def test_one_move_alone_is_the_same_in_factors_and_in_weights() -> None:
    problem = CASES["llama_lora"].make()
    problem.model.double()
    space, batch, move = problem.parameters, problem.sample("words", 4, Streams(2).generator("b")), None
    move = vector_of(problem, "first", 0.1)
    with summed_in_weights(space, [move]):
        in_weights = problem.logits(batch)
    with moved(space, [move]):
        torch.testing.assert_close(in_weights, problem.logits(batch), rtol=1e-11, atol=1e-12)


def test_a_defect_over_shifts_that_are_noise_is_left_out(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randn(400, 1, generator=generator, dtype=torch.float64) for _ in range(3)]
    noise = [rows - rows.mean() for rows in noise]
    assert not defect(*map(shift_of, noise)).known
    assert defect(*(shift_of(rows + 1) for rows in noise)).known
    geometry = geometry_of(
        toy_problem(0.0), tmp_path, {"left": torch.zeros(WIDTH**2).double(), "right": torch.zeros(WIDTH**2).double()}
    )
    figures = list(activation_additivity(geometry))
    assert {figure.value for figure in figures} == {None}
    assert all("standard errors" in (figure.reason or "") for figure in figures)


def test_one_task_alone_has_no_pair_and_a_model_without_blocks_no_activation(tmp_path: Path) -> None:
    problem = toy_problem(0.0)
    geometry = geometry_of(problem, tmp_path, {"left": vector_of(problem, "left")})
    assert {figure.reason for figure in activation_additivity(geometry)} == {"there is no pair of tasks"}
    flat = TwoTasks(problem.model.head, ParameterSpace.trainable(problem.model.head), problem.logits)
    without = geometry_of(flat, tmp_path / "flat")
    for figures in (list(activation_additivity(without)), list(steering_correspondence(without))):
        assert figures
        assert all(figure.value is None and "list of blocks" in (figure.reason or "") for figure in figures)


def test_noise_has_the_norm_of_the_step_in_every_tensor() -> None:
    step = torch.cat([torch.ones(50), 7 * torch.ones(30)]).double()
    parts = (slice(0, 50), slice(50, 80))
    noise = matched_noise(step, parts, Streams(0).generator("noise"))
    assert [float(noise[part].norm() / step[part].norm()) for part in parts] == pytest.approx([1.0, 1.0])


# ---- weight steps as steering vectors


def test_a_shift_that_is_the_same_for_all_prompts_is_a_steering_vector(tmp_path: Path) -> None:
    """A change of the bias moves every activation alike, so that adding its mean shift is the step itself."""
    problem = toy_problem(0.0, ("blocks.0.inner.bias",))
    head, targets = problem.model.head.weight.detach(), problem.fixed("left", "held_out").targets[:, 0]
    vector = 2 * (head[targets].mean(dim=0) - head.mean(dim=0))
    vectors = {"left": vector, "right": -vector}
    figures = list(steering_correspondence(geometry_of(problem, tmp_path, vectors)))
    share = only(figures, "steering_share", task="left")
    assert share.value == pytest.approx(1.0, abs=1e-5)
    assert share.labels == {"task": "left", "layer": 1}
    assert only(figures, "mean_vector_share", task="left").value == pytest.approx(1.0, abs=1e-5)
    nulls = {name: only(figures, "steering_share_null", task="left", null=name) for name in correspondence.NULLS}
    assert nulls["halves"].value == pytest.approx(0.0, abs=1e-5)
    assert nulls["other_task"].value < 0
    assert share.null == max(nulls["other_task"].value, nulls["random_step"].value)


def test_shifts_that_cancel_over_prompts_have_no_vector(tmp_path: Path) -> None:
    """Prompts x and -x with opposite answers: the step answers both, its mean shift is none."""
    problem = toy_problem(0.0)
    model = problem.model
    with torch.no_grad():
        model.embed.weight[1:7] = -model.embed.weight[7:13]
        model.head.weight[1] = -model.head.weight[2]

    def fixed(task: str, split: Split) -> Batch:
        tokens = torch.tensor([[1], [7], [2], [8], [3], [9], [4], [10]])
        answers = torch.tensor([[1], [2]] * 4)
        return Batch(tokens, torch.ones_like(tokens), torch.zeros_like(tokens), answers, (1, 2))

    problem.fixed = fixed  # type: ignore[method-assign]
    x = model.embed.weight[1:5].detach()
    step = torch.outer(model.head.weight[1].detach(), torch.linalg.lstsq(x, torch.ones(4).double()).solution)
    geometry = geometry_of(problem, tmp_path, {"left": step.flatten(), "right": vector_of(problem, "other")})
    figures = list(steering_correspondence(geometry))
    assert only(figures, "steering_share", task="left").value == pytest.approx(0.0, abs=1e-5)
    assert only(figures, "mean_vector_share", task="left").value == pytest.approx(-1 / 7, abs=1e-5)


def test_a_step_without_effect_has_no_share(tmp_path: Path) -> None:
    problem = toy_problem(0.0)
    vectors = {"left": torch.zeros(WIDTH**2).double(), "right": torch.zeros(WIDTH**2).double()}
    figures = list(steering_correspondence(geometry_of(problem, tmp_path, vectors)))
    for task in problem.tasks:
        assert only(figures, "steering_share", task=task).reason == correspondence.NO_EFFECT
    median = only(figures, "median_steering_share")
    assert median.value is None
    assert "2 of 2 tasks are left out" in (median.reason or "")


def test_a_lone_task_has_no_other_task_as_null(tmp_path: Path) -> None:
    problem = toy_problem(0.0, ("blocks.0.inner.bias",))
    head, targets = problem.model.head.weight.detach(), problem.fixed("left", "held_out").targets[:, 0]
    vector = 2 * (head[targets].mean(dim=0) - head.mean(dim=0))
    figures = list(steering_correspondence(geometry_of(problem, tmp_path, {"left": vector})))
    assert only(figures, "steering_share_null", task="left", null="other_task").reason == "there is no other task"
    assert only(figures, "steering_share", task="left").null is not None


def test_mean_vector_share_is_the_unbiased_share_of_one_vector() -> None:
    generator = np.random.default_rng(0)
    vector = np.full(20, 0.5)
    drawn = [mean_vector_share(torch.from_numpy(vector + generator.standard_normal((8, 20)))) for _ in range(2000)]
    assert np.mean(drawn) == pytest.approx(5 / 25, abs=0.01)
    unrelated = [mean_vector_share(torch.from_numpy(generator.standard_normal((8, 20)))) for _ in range(2000)]
    assert np.mean(unrelated) == pytest.approx(0.0, abs=0.01)


def test_tried_layers_reach_from_early_to_the_last() -> None:
    assert tried_layers(4) == (1, 2, 3, 4)
    assert tried_layers(30) == (5, 10, 15, 20, 25, 30)
    assert tried_layers(32)[-1] == 32


# ---- what is kept, and what it costs


@pytest.mark.parametrize(
    ("part", "cost"), [(activation_additivity, activation_cost), (steering_correspondence, correspondence_cost)]
)
@pytest.mark.parametrize("space", ["full", "lora"])
def test_costs_are_the_passes_that_are_made_and_a_second_call_makes_none(
    part: Callable[[Geometry], Iterator[Quantity]],
    cost: Callable[[Settings, int], dict[str, float]],
    space: str,
    tmp_path: Path,
) -> None:
    problem = toy_problem(0.1) if space == "full" else lora_problem(0.1)
    geometry, seen, layers = geometry_of(problem, tmp_path), [], correspondence.LAYERS_TRIED
    geometry = replace(
        geometry,
        study=replace(
            geometry.study, settings=replace(geometry.study.settings, recovery=RecoverySettings(space=space))
        ),
    )
    embed = next(m for m in problem.model.modules() if isinstance(m, nn.Embedding))
    embed.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    first = list(part(geometry))
    expected = sum(cost(geometry.study.settings, 2).values()) / FORWARD_PASSES
    missing = 0
    if part is steering_correspondence:  # one layer is all that this model has
        missing = (layers - 1) * 2 * PROMPTS * (1 + 1 + correspondence.RANDOM_STEPS)
    assert sum(seen) - 1 == pytest.approx(expected - missing)
    seen.clear()
    assert list(part(geometry)) == first
    assert sum(seen) <= 1


# ---- rotation of gradient planes

LAGS = (1, 3, 6)


@pytest.fixture(scope="module")
def turning(tmp_path_factory: pytest.TempPathFactory) -> tuple[Geometry, list[Quantity]]:
    settings = replace(
        trained_settings("lora"),
        operating=OperatingSettings(steps=15),
        recovery=RecoverySettings(space="lora", lr=3e-3, batch=8),
        measurement=MeasureSettings(drift_gradients=32, drift_rank=2, minibatch=4),
        geometry=GeometrySettings(rotation_lags=(3, 1, 6)),
    )
    folder = tmp_path_factory.mktemp("turning")
    problem = SyntheticProblem(settings, 0)
    study = operating_study(Case(problem, settings, ALL_TASKS, 0, StudyFiles.inside(folder)))
    with at_operating_point(study):
        made = geometry_of(
            problem,
            folder,
            {task: torch.zeros(problem.parameters.n_params).double() for task in problem.tasks},
            settings,
        )
        geometry = replace(made, study=study)
        before = problem.parameters.read()
        figures = list(plane_rotation(geometry))
        assert torch.equal(problem.parameters.read(), before)
    return geometry, figures


def dense_planes(geometry: Geometry, task: str, lag: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Gradients and planes at the weights that the model holds, sharing only the draws with what is tested."""
    m, rows = geometry.study.settings.measurement, []
    for part in range(PARTS):
        streams = geometry.streams.child("planes", lag, part)
        batch = minibatches(geometry.study.problem, task, (m.drift_gradients, m.minibatch), streams)
        rows.append(oracles.dense_gradients(geometry.study.problem, batch, m.minibatch))
    return rows, [np.linalg.svd(own, full_matrices=False)[2][: m.drift_rank].T for own in rows]


def test_rotation_is_that_of_dense_gradients_along_a_plain_training(turning: tuple[Geometry, list[Quantity]]) -> None:
    geometry, figures = turning
    study, task = geometry.study, "copy"
    problem, recovery = study.problem, study.settings.recovery
    floor = study.settings.measurement.drift_rank / problem.parameters.n_params
    pairs = list(permutations(range(PARTS), 2))
    with at_operating_point(study):
        theta = problem.parameters.read()
        _, start = dense_planes(geometry, task, 0)
        others = [dense_planes(geometry, name, 0)[1][0] for name in problem.tasks if name != task]
        optimizer = torch.optim.AdamW(problem.parameters.tensors, lr=recovery.lr, weight_decay=0.0)
        batches = task_batches(problem, task, recovery.batch, geometry.streams.child("rotation"))
        lives, distances = [], []
        for step in range(max(LAGS)):
            optimizer.zero_grad()
            problem.loss(batches(step)).backward()
            optimizer.step()
            lag = step + 1
            if lag not in LAGS:
                continue
            rows, later = dense_planes(geometry, task, lag)
            within = [np.mean([oracles.dense_overlap(p[i], p[j]) for i, j in pairs]) for p in (start, later)]
            ceiling = float(np.sqrt(within[0] * within[1]))
            crossed = np.mean([oracles.dense_overlap(start[i], later[j]) for i, j in pairs])
            other = np.mean([oracles.dense_overlap(u, v) for u in others for v in later])
            overlap = only(figures, "plane_overlap", task=task, lag=lag)
            assert overlap.value == pytest.approx((crossed - floor) / (ceiling - floor), abs=1e-6)
            assert overlap.null == pytest.approx((other - floor) / (ceiling - floor), abs=1e-6)
            retention = only(figures, "plane_retention", task=task, lag=lag)

            def held(planes: list[np.ndarray], chosen: list[tuple[int, int]], rows: list[np.ndarray] = rows) -> float:
                return float(
                    np.mean([np.square(rows[j] @ planes[i]).sum() / np.square(rows[j]).sum() for i, j in chosen])
                )

            assert retention.value == pytest.approx(held(start, pairs), abs=1e-6)
            assert retention.ceiling == pytest.approx(held(later, pairs), abs=1e-6)
            every = [(i, j) for i in range(len(others)) for j in range(PARTS)]
            assert retention.null == pytest.approx(held(others, every), abs=1e-6)
            lives.append(overlap.value)
            distances.append(float((problem.parameters.read() - theta).norm()))
        problem.parameters.write(theta)
    problem.model.zero_grad()
    assert only(figures, "plane_half_life", task=task).value == pytest.approx(crossing(LAGS, lives), abs=1e-6)
    far = only(figures, "plane_half_life_distance", task=task)
    assert far.value == pytest.approx(crossing(distances, lives), abs=1e-6)


def test_every_task_turns_and_a_second_call_trains_nothing(
    turning: tuple[Geometry, list[Quantity]], monkeypatch: pytest.MonkeyPatch
) -> None:
    geometry, figures = turning
    for task in geometry.tasks:
        assert len([figure for figure in figures if figure.matches("plane_overlap", task=task.name)]) == len(LAGS)
    monkeypatch.setattr(rotation, "train", None)
    with at_operating_point(geometry.study):
        assert list(plane_rotation(geometry)) == figures


def test_half_lives_that_do_not_cross_are_censored_and_count_as_the_largest_lag() -> None:
    crossed = half_life("plane_half_life", "steps", "a", [1, 10, 100], [0.9, 0.5, 0.1])
    steady = half_life("plane_half_life", "steps", "b", [1, 10, 100], [0.9, 0.8, 0.7])
    unknown = half_life("plane_half_life", "steps", "c", [], [])
    assert crossed.value == pytest.approx(10)
    assert (steady.value, (steady.reason or "").split(" (")[0]) == (None, "> 100")
    assert (unknown.reason or "").startswith("undefined")
    median = median_life([crossed, steady, unknown], 100)
    assert median.value == pytest.approx(55)
    assert "1 of 3 tasks do not cross" in (median.reason or "")
    assert "1 of 3 tasks are left out" in (median.reason or "")
    assert median_life([steady], 100).value == 100
    assert median_life([unknown], 100).value is None


def test_rotation_costs_its_training_and_its_gradients() -> None:
    settings = replace(
        Settings(),
        recovery=RecoverySettings(batch=8),
        measurement=MeasureSettings(drift_gradients=6, drift_rank=2, minibatch=4),
        geometry=GeometrySettings(rotation_lags=LAGS),
    )
    (passes,) = rotation_cost(settings, 3).values()
    assert passes == 3 * (6 * 8 + (4 * PARTS + 1) * 24)


def test_every_figure_has_a_definition(tmp_path: Path, turning: tuple[Geometry, list[Quantity]]) -> None:
    geometry = geometry_of(lora_problem(0.1), tmp_path)
    for figures, definitions in (
        (turning[1], rotation.ROTATION_DEFINITIONS),
        (list(activation_additivity(geometry)), activations.ACTIVATION_DEFINITIONS),
        (list(steering_correspondence(geometry)), correspondence.CORRESPONDENCE_DEFINITIONS),
    ):
        assert {figure.name for figure in figures} == set(definitions)
