"""The measurement of local geometry on a tiny embedded model: against the library's functions, and in a run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lineament.errors import InputError
from lineament.measurements.local_geometry import measurement
from lineament.measurements.local_geometry.geometry import at_operating_point, make_geometry
from lineament.measurements.local_geometry.products import make_products
from lineament.problems.synthetic import SyntheticProblem
from lineament.records import ALL_TASKS, Record, load_records
from lineament.runs.job import run_job, targets_of
from lineament.runs.planning import plan
from lineament.settings.presets import resolve
from lineament.settings.settings import Settings
from lineament.study.case import Case
from lineament.study.files import StudyFiles
from lineament.study.study import OperatingStudy, operating_study
from lineament.vectors.local_geometry import commutator, order_defect, validity_radius

TINY: dict[str, Any] = {
    "measure": ["local_geometry"],
    "task.names": ["copy", "sort", "parity"],
    "task.evaluation_examples": 16,
    "model.width": 16,
    "model.heads": 2,
    "model.layers": 2,
    "model.length": 4,
    "training.steps": 30,
    "operating.steps": 10,
    "lora.rank": 2,
    "measurement.task_vector_steps": 3,
    "measurement.minibatch": 4,
    "geometry.examples": 16,
    "geometry.held_out_examples": 16,
    "geometry.rotation_lags": [1, 2],
    "geometry.prompts": 8,
    "measurement.drift_gradients": 5,
    "measurement.drift_rank": 2,
}


def settings_of(**changes: Any) -> Settings:
    return resolve("synthetic", "quick", [("test", TINY | changes)])


def study_in(folder: Path, settings: Settings, seed: int = 0) -> OperatingStudy:
    problem = SyntheticProblem(settings, seed)
    return operating_study(Case(problem, settings, ALL_TASKS, seed, StudyFiles.inside(folder)))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[OperatingStudy, Record]:
    study = study_in(tmp_path_factory.mktemp("geometry"), settings_of())
    return study, measurement.measure(study)


def test_a_study_comes_back_bit_for_bit_in_its_own_precision(tiny: tuple[OperatingStudy, Record]) -> None:
    study, _ = tiny
    before = {name: p.detach().clone() for name, p in study.problem.model.named_parameters()}
    with pytest.raises(RuntimeError, match="in the middle"), at_operating_point(study):
        assert study.problem.parameters.tensors[0].dtype == torch.float64
        raise RuntimeError("in the middle")
    for name, parameter in study.problem.model.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, before[name])


def test_kappas_are_those_of_the_librarys_commutator(tiny: tuple[OperatingStudy, Record]) -> None:
    study, record = tiny
    with at_operating_point(study):
        geometry = make_geometry(study)
        space, (copy, sort, _) = geometry.space, geometry.tasks
        for first, second, batches, gradients in (
            ("copy", "sort", (copy.batch, sort.batch), (copy.gradient, sort.gradient)),
            ("copy", "copy", (copy.batch, copy.second_batch), (copy.gradient, copy.second_gradient)),
        ):
            losses = [geometry.loss(batch) for batch in batches]
            exact = commutator(space, *losses)
            kappa = float(exact.norm() / (gradients[0] + gradients[1]).norm())
            assert record.value("kappa", first=first, second=second) == pytest.approx(kappa, rel=1e-6)
            eta = 1e-2 / kappa
            defect = order_defect(space, *losses, eta)
            of: dict[str, Any] = {"first": first, "second": second, "eta_kappa": 1e-2}
            assert record.value("order_defect", **of) == pytest.approx(defect.relative, rel=1e-6)
            ends = space.read(torch.float64) + defect.moves
            torch.testing.assert_close(ends[1] - ends[0], defect.difference, atol=1e-12, rtol=1e-6)


def test_one_step_on_each_of_two_tasks_ends_where_order_defect_says(tiny: tuple[OperatingStudy, Record]) -> None:
    study, _ = tiny
    with at_operating_point(study):
        geometry = make_geometry(study)
        space, eta = geometry.space, 0.3
        losses = [geometry.loss(task.batch) for task in geometry.tasks[:2]]

        def walked(order: tuple[int, int]) -> Tensor:
            with space.restored():
                for i in order:
                    space.write(space.read() - eta * space.gradient(losses[i]()))
                return space.read().clone()

        difference = walked((0, 1)) - walked((1, 0))  # F_B F_A - F_A F_B
        torch.testing.assert_close(order_defect(space, *losses, eta).difference, difference, atol=1e-12, rtol=1e-7)


def test_small_steps_are_as_predicted(tiny: tuple[OperatingStudy, Record]) -> None:
    _, record = tiny
    for kind in ("between", "within"):
        assert record.value("median_order_ratio", pair=kind, eta_kappa=1e-3) == pytest.approx(1, abs=0.01)
    small = [q.value for q in record.select("first_order_error", eps=1e-5)]
    assert len(small) == 9
    assert all(error is None or error < 0.1 for error in small)
    for figure in record.select("additivity_defect", eps=1e-3):
        if figure.labels["pair"] != "random" and figure.value is not None:
            predicted = record.value("additivity_predicted", **figure.labels)
            assert predicted is not None
            assert figure.value == pytest.approx(predicted, rel=0.2, abs=1e-4)


def test_windows_are_the_librarys_validity_radius(tiny: tuple[OperatingStudy, Record]) -> None:
    study, record = tiny
    with at_operating_point(study):
        geometry = make_geometry(study)
        task = geometry.tasks[1]
        direction = -task.gradient * geometry.unit / task.gradient.norm()
        radius = validity_radius(geometry.space, geometry.loss(task.batch), direction)
    window = next(record.select("window", task=task.name, direction="gradient"))
    assert window.value == pytest.approx(radius.radius, rel=1e-6)
    assert window.null is not None
    assert window.null < radius.radius, "shuffled labels predict no change"
    assert record.value("window_predicted", task=task.name, direction="gradient") == pytest.approx(radius.predicted)


def test_products_cost_m_times_m_plus_one(tiny: tuple[OperatingStudy, Record]) -> None:
    study, _ = tiny
    with at_operating_point(study):
        products = make_products(make_geometry(study))
        m = len(study.problem.tasks)
        assert all(len(products.of(task)["own"]) == m for task in study.problem.tasks)
        row = products.product("sort", "copy")
        assert row.dtype == torch.float64
        assert row.shape == (study.problem.parameters.n_params,)


def test_order_in_the_weights_stands_beside_order_in_the_factors(tiny: tuple[OperatingStudy, Record]) -> None:
    _, record = tiny
    figures = list(record.select("order_defect_in_weights"))
    assert len(figures) == 6
    assert all(figure.value is not None and figure.value > 0 for figure in figures)


def test_a_run_that_was_cut_short_goes_on_and_gives_the_same(
    tiny: tuple[OperatingStudy, Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole = tiny
    study = study_in(tmp_path, settings_of())

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(measurement, "summaries", fail)
        with pytest.raises(KeyboardInterrupt):
            measurement.measure(study)
    files = sorted(study.files.geometry.iterdir())
    stamps = {file: file.stat().st_mtime_ns for file in files}
    again = measurement.measure(study)
    assert {file: file.stat().st_mtime_ns for file in files} == stamps, "nothing that was whole is made again"
    assert again.quantities == whole.quantities


def test_one_task_alone_has_its_within_pair(tmp_path: Path) -> None:
    record = measurement.measure(study_in(tmp_path, settings_of(**{"task.names": ["sort"], "task.targets": ["sort"]})))
    assert {q.labels["pair"] for q in record.select("kappa")} == {"within"}
    between = next(record.select("median_kappa", pair="between"))
    assert between.value is None
    assert between.reason


def test_lower_precision_leaves_out_what_rounding_could_make(tmp_path: Path) -> None:
    record = measurement.measure(study_in(tmp_path, settings_of(**{"geometry.float64": False})))
    hidden = [q for q in record.select("first_order_error", eps=1e-5) if q.value is None]
    assert hidden
    assert all("rounding" in (q.reason or "") for q in hidden)
    assert record.value("median_order_ratio", pair="between", eta_kappa=1e-2) == pytest.approx(1, abs=0.1)


def test_full_weights_are_measured_too(tmp_path: Path) -> None:
    record = measurement.measure(study_in(tmp_path, settings_of(**{"recovery.space": "full"})))
    assert record.space == "full"
    assert not list(record.select("order_defect_in_weights"))
    ratio = record.value("median_order_ratio", pair="between", eta_kappa=1e-3)
    assert ratio == pytest.approx(1, abs=0.02)


def test_a_run_makes_one_record_of_all_tasks(tmp_path: Path) -> None:
    settings = settings_of(**{"task.targets": ["copy", "sort"], "measure": ["local_geometry"]})
    assert targets_of(settings) == (ALL_TASKS,)
    run_job(settings, 0, tmp_path)
    (record,) = load_records(tmp_path / "records")
    assert record.target == ALL_TASKS
    with_steering = replace(settings, measure=("local_geometry", "steering"))
    assert targets_of(with_steering) == ("copy", "sort", ALL_TASKS)


def test_the_plan_counts_it_once_and_not_for_every_target() -> None:
    def passes(*targets: str) -> int:
        stages = plan(settings_of(**{"task.targets": list(targets)}), workers=1).stages
        return next(stage.examples for stage in stages if stage.name == "local geometry")

    assert passes("copy", "sort") == passes("copy") > 0


class Once(torch.autograd.Function):
    """Three times its input, with a first derivative alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 3 * x

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 3 * gradient


def test_a_model_without_second_derivatives_is_refused_before_anything_is_trained(
    tiny: tuple[OperatingStudy, Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, _ = tiny
    logits = study.problem.logits
    monkeypatch.setattr(study.problem, "logits", lambda batch: Once.apply(logits(batch)))
    with pytest.raises(InputError, match="differentiated once only"):
        measurement.require_fit(study.problem)


def test_no_figure_is_infinite(tiny: tuple[OperatingStudy, Record]) -> None:
    _, record = tiny
    assert all(q.value is None or math.isfinite(q.value) for q in record.quantities)
    assert all(q.value is not None or q.reason for q in record.quantities)
    assert set(record.definitions) >= {q.name for q in record.quantities}
