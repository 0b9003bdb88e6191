"""Measurements on a small real study against dense float64 algebra that shares no code, and closed forms."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems_table import trained_settings

from lineament.bases import Basis, random_basis, top_directions
from lineament.measurements import basis_capture, basis_drift, capture_bases, gradient_rank, random_search
from lineament.measurements.capture_bases import BASES, Workbench, further_task_planes, make_bases, why_left_out
from lineament.parameters import Space, Vectors
from lineament.problems.problem import Corruption
from lineament.problems.synthetic import SyntheticProblem
from lineament.records import Record
from lineament.settings.measurement import MeasureSettings
from lineament.settings.training import OperatingSettings, RecoverySettings
from lineament.study.case import Case
from lineament.study.files import StudyFiles
from lineament.study.study import Study, prepare_study
from lineament.vectors.spectrum import STATISTICS, spectrum_statistics

RANKS = (1, 2, 5)
WHOLE = {"definition": "whole", "at": "T", "space_of": "parameters"}


def make_study(folder, seed: int = 0, **changes) -> Study:
    settings = replace(
        trained_settings("lora"),
        operating=OperatingSettings(steps=15),
        recovery=RecoverySettings(space="lora", lr=1e-3, steps=120),
        measurement=MeasureSettings(
            ranks=RANKS,
            headline_rank=5,
            gradients=16,
            curvature_batch=16,
            lanczos_steps=10,
            task_vector_steps=3,
            inside_steps=4,
            drift_gradients=8,
            drift_rank=2,
            inside_all=True,
        ),
    )
    settings = replace(settings, **changes)
    return prepare_study(Case(SyntheticProblem(settings, seed), settings, "copy", seed, StudyFiles.inside(folder)))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    found = make_study(tmp_path_factory.mktemp("study"))
    assert found.curve.recovered_at is not None
    assert found.recovered_at >= max(RANKS), "the study recovers too fast to test anything"
    return found


@pytest.fixture(scope="module")
def captures(study: Study) -> Record:
    return basis_capture.measure(study)


@pytest.fixture(scope="module")
def drift(study: Study) -> Record:
    return basis_drift.measure(study)


@pytest.fixture(scope="module")
def ranks(study: Study) -> Record:
    return gradient_rank.measure(study)


def updates(study: Study) -> np.ndarray:
    """Every recorded update, (n_steps, n_params) float64."""
    return study.trajectory.updates(1, study.trajectory.n_steps).rows.double().numpy()


def dense_static(study: Study, point: str, task: str, stream: str = "static") -> np.ndarray:
    """The protocol's minibatch gradients, one autograd call each."""
    m = study.settings.measurement
    batch = study.gradient_batch(task, m.gradients, m.minibatch, stream)
    with study.problem.parameters.temporarily(study.points[point]):
        return oracles.dense_gradients(study.problem, batch, m.minibatch)


def test_gradient_sets_are_drawn_minibatch_by_minibatch(study: Study) -> None:
    """As training draws its batches, so that each is balanced where the problem balances labels."""
    found = study.gradient_batch("copy", 3, 8, "static")
    generator = study.streams.child("gradients", "static").generator("copy")
    for part in found.chunks(8):
        assert torch.equal(part.targets, study.problem.sample("copy", 8, generator).targets)


# --- capture ---


@pytest.mark.parametrize("rank", RANKS)
def test_prefix_capture_is_least_squares_on_the_updates(study: Study, captures: Record, rank: int) -> None:
    rows, end = updates(study), study.recovered_at
    truth = {
        "whole": oracles.dense_capture(rows[:rank], rows[:end].sum(axis=0)),
        "rest": oracles.dense_capture(rows[:rank], rows[rank:end].sum(axis=0)),
        "rest_gap": oracles.dense_capture(rows[:rank], rows[rank + 10 : end].sum(axis=0)),
    }
    for definition, expected in truth.items():
        labels = {**WHOLE, "basis": "prefix", "rank": rank, "definition": definition}
        assert captures.value("capture", **labels) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("basis", "point"), [("static_star", "star"), ("static_broken", "broken")])
def test_static_capture_is_the_svd_of_dense_gradients(study: Study, captures: Record, basis: str, point: str) -> None:
    right = np.linalg.svd(dense_static(study, point, "copy"), full_matrices=False)[2]
    rows, end = updates(study), study.recovered_at
    for rank in RANKS:
        whole = oracles.dense_capture(right[:rank], rows[:end].sum(axis=0))
        rest = oracles.dense_capture(right[:rank], rows[rank:end].sum(axis=0))
        labels = {**WHOLE, "basis": basis, "rank": rank}
        assert captures.value("capture", **labels) == pytest.approx(whole, rel=1e-3, abs=1e-5)
        assert captures.value("capture", **{**labels, "definition": "rest"}) == pytest.approx(rest, rel=1e-3, abs=1e-5)


def test_random_times_is_the_mean_of_least_squares_over_its_draws(study: Study, captures: Record) -> None:
    rows, end, rank = updates(study), study.recovered_at, 5
    generator = study.streams.generator("random times", rank)
    whole = rows[:end].sum(axis=0)
    found = []
    for _ in range(study.settings.measurement.random_draws):
        found.append(oracles.dense_capture(rows[generator.permutation(end)[:rank]], whole))
    labels = {**WHOLE, "basis": "control_random_times", "rank": rank}
    assert captures.value("capture", **labels) == pytest.approx(np.mean(found), abs=1e-6)


def test_captures_do_not_fall_with_rank_and_stay_in_the_unit_interval(captures: Record) -> None:
    for name in BASES:
        values = [captures.value("capture", **WHOLE, basis=name, rank=rank) for rank in RANKS]
        known = [value for value in values if value is not None]
        assert known, name
        assert all(0 <= value <= 1 + 1e-9 for value in known)
        assert known == sorted(known), name


def test_a_random_subspace_captures_its_share(study: Study, captures: Record) -> None:
    n, rank = study.problem.parameters.n_params, 5
    value = captures.value("capture", **WHOLE, basis="random", rank=rank)
    # k / n with the spread of a Beta(k / 2, (n - k) / 2) variable
    assert value is not None
    assert abs(value - rank / n) < 4 * np.sqrt(2 * rank) / n


def test_every_capture_carries_its_structured_null(captures: Record) -> None:
    for figure in captures.select("capture", **WHOLE, rank=5):
        name = str(figure.labels["basis"])
        null = "null_other_task" if name.startswith(("static", "task_vectors")) else "null_noise_prefix"
        null = "null_preconditioned_shuffled" if name == "control_preconditioned" else null
        assert figure.null == captures.value("capture", **WHOLE, basis=null, rank=5), name


def test_share_of_steps_and_recovery_step(study: Study, captures: Record) -> None:
    assert captures.value("recovery_steps") == study.recovered_at
    assert captures.value("prefix_share_of_steps", rank=5) == pytest.approx(5 / study.recovered_at)


def test_start_basis_shares_are_those_of_the_factors(study: Study, captures: Record) -> None:
    right = np.linalg.svd(dense_static(study, "early", "copy"), full_matrices=False)[2][:5]
    space = study.problem.parameters
    in_a = np.zeros(space.n_params)
    for name, part in zip(space.names, space.slices, strict=True):
        in_a[part] = "lora_A" in name
    (a,), (b,) = (list(captures.select("start_basis_share", factor=factor)) for factor in "AB")
    assert a.value == pytest.approx(np.square(right)[:, in_a == 1].sum() / 5, abs=1e-3)
    assert a.null == pytest.approx(in_a.mean())
    assert a.value + b.value == pytest.approx(1)
    assert a.null + b.null == pytest.approx(1)


def test_captures_of_effective_weights_do_not_depend_on_the_gauge(study: Study, captures: Record) -> None:
    """dW of every step, materialised, against the figures made from factors."""
    from lineament.problems.factor_pairs import factor_pairs

    thetas = [study.trajectory.position(step) for step in range(study.recovered_at + 1)]
    weights = [
        torch.cat(
            [
                (p.scale * theta[p.b].view(p.b_shape) @ theta[p.a].view(p.a_shape)).flatten()
                for p in factor_pairs(study.problem.parameters)
            ]
        )
        for theta in thetas
    ]
    rows = torch.stack([b - a for a, b in pairwise(weights)]).numpy()
    truth = oracles.dense_capture(rows[:5], rows.sum(axis=0))
    labels = {**WHOLE, "space_of": "lora_effective", "basis": "prefix", "rank": 5}
    assert captures.value("capture", **labels) == pytest.approx(truth, abs=1e-5)


def test_krylov_overlap_with_the_prefix_is_that_of_explicit_powers(study: Study, captures: Record) -> None:
    with study.problem.parameters.temporarily(study.points["broken"]):
        bench = Workbench(study)
        batch = study.gradient_batch(study.target, study.settings.measurement.curvature_batch, 1, "curvature")
        gradient = oracles.dense_gradients(study.problem, batch, len(batch))[0]
        product = (bench.hessian @ torch.from_numpy(gradient)).numpy()
    powers = oracles.orthonormal(np.stack([gradient, product]))
    prefix = oracles.orthonormal(updates(study)[:2])
    found = captures.value("krylov_prefix_overlap", basis="krylov", rank=2)
    assert found == pytest.approx(oracles.dense_overlap(powers, prefix), abs=1e-3)


def test_the_ceiling_of_a_krylov_overlap_is_what_two_other_data_orders_share(study: Study, captures: Record) -> None:
    bases = make_bases(study, ["control_other_data", "control_other_data_2", "null_noise_prefix"])
    first, second, noise = (bases[name].leading(2).columns.numpy() for name in bases)
    (found,) = captures.select("krylov_prefix_overlap", basis="krylov_preconditioned", rank=2)
    truth = oracles.dense_overlap(first, second)
    assert 0 < truth < 1
    assert found.ceiling == pytest.approx(truth, abs=1e-6)
    assert found.null != found.ceiling
    assert oracles.dense_overlap(first, noise) < truth


def test_another_task_means_all_other_tasks(study: Study, captures: Record) -> None:
    rows, end = updates(study), study.recovered_at
    others = [task for task in study.problem.tasks if task != "copy"]
    assert len(others) > 1
    planes = [np.linalg.svd(dense_static(study, "broken", task), full_matrices=False)[2][:2] for task in others]
    found = [oracles.dense_capture(plane, rows[:end].sum(axis=0)) for plane in planes]
    value = captures.value("capture", **WHOLE, basis="null_other_task", rank=2)
    assert value == pytest.approx(np.mean(found), rel=1e-3, abs=1e-5)
    assert abs(found[0] - np.mean(found)) > 1e-3 * abs(found[0]), "one task would do as well"


def test_a_problem_of_one_task_has_no_other_task_s_plane(study: Study) -> None:
    alone = replace(study, problem=copy(study.problem))
    alone.problem.tasks = ("copy",)
    assert why_left_out(alone, "null_other_task") == "the problem has one task alone"
    assert make_bases(alone, ["null_other_task"]) == {}
    assert why_left_out(study, "null_other_task") is None


def test_another_task_without_a_gradient_is_passed_over_and_named(study: Study) -> None:
    """The first of the others may be solved to the last bit; the next one is a null as good."""
    others = [task for task in study.problem.tasks if task != "copy"]
    flat = replace(study)
    plain = study.minibatch_gradients

    def gradients(point: str, task: str, stream: str = "static", labels: Corruption | None = None) -> Vectors:
        found = plain(point, task, stream, labels)
        return replace(found, rows=found.rows * 0) if task == others[0] else found

    object.__setattr__(flat, "minibatch_gradients", gradients)
    bench = Workbench(flat)
    basis = make_bases(flat, ["null_other_task"], bench)["null_other_task"]
    expected = top_directions(plain("broken", others[1]), bench.rank, "null_other_task")
    assert torch.allclose(basis.columns, expected.columns)
    assert bench.tasks_without_gradient == {others[0]}
    assert len(list(further_task_planes(bench))) == len(others) - 2


def test_directions_that_lanczos_has_not_found_are_no_hessian_eigenvectors(study: Study, captures: Record) -> None:
    recorded = [f.value for f in captures.select("hessian_top_residual")]
    assert len(recorded) == max(RANKS)
    few = replace(study.settings.measurement, lanczos_steps=5)
    short = replace(study, settings=replace(study.settings, measurement=few))
    for case in (study, short):
        bench = Workbench(case)
        basis = make_bases(case, ["static_hessian_top"], bench).get("static_hessian_top")
        kept = [size for size in bench.hessian_residuals if size <= 0.1]
        assert (basis.rank if basis else 0) == len(kept)
        with case.problem.parameters.temporarily(case.points["broken"]):
            for i, size in enumerate(kept):
                v = basis.columns[:, i]
                image = bench.hessian @ v
                assert float((image - v * (v @ image)).norm() / abs(v @ image)) == pytest.approx(size, rel=1e-2)
    assert len(kept) < max(RANKS), "five steps find every direction: nothing is tested"


def test_a_basis_that_lanczos_has_not_found_says_so(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_bases, "MOST_RESIDUAL", 0.0)
    record = basis_capture.measure(with_few_figures(study))
    found = list(record.select("capture", **WHOLE, basis="static_hessian_top"))
    assert [f.value for f in found] == [None]
    assert "no Hessian direction" in str(found[0].reason)


def test_random_search_goes_on_without_a_basis_that_lanczos_has_not_found(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture_bases, "MOST_RESIDUAL", 0.0)
    monkeypatch.setattr(random_search, "dimension_figures", lambda study: [])
    search = replace(
        study.settings.search,
        spaces=("full", "static_hessian_top"),
        informed=("static_hessian_top", "static_broken"),
        examples=8,
        draws=16,
        theorem_draws=16,
        density_draws=16,
        counts=(1, 4),
        headline_count=4,
        costs=(0.25,),
        most_probes=4,
    )
    record = random_search.measure(replace(study, settings=replace(study.settings, search=search)))
    assert {f.labels["space"] for f in record.quantities if "space" in f.labels} >= {"full"}
    assert not [f for f in record.quantities if "static_hessian_top" in f.labels.values()]


def with_few_figures(study: Study) -> Study:
    small = replace(study.settings.measurement, ranks=(1,), headline_rank=1, inside_steps=1, inside_all=False)
    return replace(study, settings=replace(study.settings, measurement=small))


def test_preconditioned_plane_is_the_svd_after_the_metric(study: Study) -> None:
    recovery = study.settings.recovery
    batch = study.gradient_batch("copy", 16, recovery.batch, "metric")
    with study.problem.parameters.temporarily(study.points["broken"]):
        fresh = oracles.dense_gradients(study.problem, batch, recovery.batch)
        bases = make_bases(study)
    metric = np.sqrt((fresh**2).mean(axis=0)) + recovery.eps
    right = np.linalg.svd(dense_static(study, "broken", "copy") / metric, full_matrices=False)[2][:2]
    found = bases["control_preconditioned"].leading(2).columns.numpy()
    assert oracles.dense_overlap(found, right.T) > 1 - 1e-3


def test_the_null_of_the_preconditioned_plane_has_shuffled_labels_in_plane_and_metric(study: Study) -> None:
    recovery, m = study.settings.recovery, study.settings.measurement
    sets = (("metric shuffled", 16, recovery.batch), ("preconditioned shuffled", m.gradients, m.minibatch))
    with study.problem.parameters.temporarily(study.points["broken"]):
        fresh, rows = (
            oracles.dense_gradients(study.problem, study.gradient_batch("copy", n, size, name, "shuffled"), size)
            for name, n, size in sets
        )
    right = np.linalg.svd(rows / (np.sqrt((fresh**2).mean(axis=0)) + recovery.eps), full_matrices=False)[2][:2]
    found = make_bases(study, ["null_preconditioned_shuffled"])["null_preconditioned_shuffled"].leading(2)
    assert oracles.dense_overlap(found.columns.numpy(), right.T) > 1 - 1e-3


def test_the_mean_free_prefix_is_adam_on_gradients_without_the_mean_where_it_stands(study: Study) -> None:
    recovery, streams = study.settings.recovery, study.streams.child("mean-free run")
    theta = study.points["broken"].double().numpy()
    first, second, rows = 0.0, 0.0, []
    for step in range(2):
        batch = study.problem.sample("copy", recovery.batch, streams.generator("copy", step))
        fresh = study.problem.sample("copy", 4 * recovery.batch, streams.child("mean").generator("copy", step))
        with study.problem.parameters.temporarily(torch.from_numpy(theta)):
            g = oracles.dense_gradients(study.problem, batch, len(batch))[0]
            g = g - oracles.dense_gradients(study.problem, fresh, len(fresh))[0]
        first = recovery.momentum * first + (1 - recovery.momentum) * g
        second = recovery.beta2 * second + (1 - recovery.beta2) * g**2
        unbiased = first / (1 - recovery.momentum ** (step + 1)), second / (1 - recovery.beta2 ** (step + 1))
        step_taken = recovery.lr * (unbiased[0] / (np.sqrt(unbiased[1]) + recovery.eps) + recovery.weight_decay * theta)
        rows.append(-step_taken)
        theta = theta - step_taken
    found = make_bases(study, ["null_mean_free_prefix"])["null_mean_free_prefix"].leading(2).columns.numpy()
    assert oracles.dense_overlap(found, oracles.orthonormal(np.stack(rows))) > 0.99


def test_projection_on_a_basis_that_holds_everything_is_the_recovered_point(study: Study) -> None:
    from lineament.bases import from_vectors
    from lineament.measurements.inside import _projected
    from lineament.parameters import Vectors

    displacement = (study.points["recovered"].double() - study.points["broken"].double())[None]
    found = _projected(study, from_vectors(Vectors(displacement, study.problem.parameters.space), "D"))
    with study.problem.parameters.temporarily(study.points["recovered"]):
        truth = study.problem.evaluate(study.problem.fixed("copy", "held_out"))
    assert found.loss == pytest.approx(truth.loss, abs=1e-5)
    assert found.accuracy == truth.accuracy


def test_training_inside_every_basis_and_rank_is_reported(captures: Record) -> None:
    assert {f.labels["basis"] for f in captures.select("trained_inside")} >= {"prefix", "static_broken", "random"}
    broken = captures.value("reference", point="broken", statistic="loss")
    best = min(f.value for f in captures.select("trained_inside", statistic="loss") if f.value is not None)
    assert broken is not None
    assert best < broken


def test_measuring_gives_the_weights_back_and_repeats_bit_for_bit(study: Study, captures: Record) -> None:
    before = study.problem.parameters.read()
    again = basis_capture.measure(study)
    assert torch.equal(study.problem.parameters.read(), before)
    assert again.quantities == captures.quantities


def test_a_study_that_does_not_recover_has_no_capture(tmp_path) -> None:
    short = RecoverySettings(space="lora", lr=1e-7, steps=12)
    unrecovered = make_study(tmp_path, recovery=short)
    assert unrecovered.curve.recovered_at is None
    record = basis_capture.measure(unrecovered)
    assert not list(record.select("capture"))
    assert [f.reason for f in record.select("recovery_steps")] == [unrecovered.curve.why_not_recovered]
    life = next(iter(basis_drift.measure(unrecovered).select("half_life")))
    assert life.value is None
    assert "not recovered" in str(life.reason)


@pytest.mark.slow
def test_the_grid_shows_nine_cells(tmp_path) -> None:
    small = MeasureSettings(
        ranks=(1, 2),
        headline_rank=2,
        gradients=8,
        curvature_batch=8,
        lanczos_steps=4,
        task_vector_steps=2,
        inside_steps=2,
        drift_gradients=4,
        drift_rank=2,
        grid=True,
    )
    record = basis_capture.measure(make_study(tmp_path, measurement=small))
    cells = {(f.labels["damage"], f.labels["lr"]) for f in record.select("grid_recovery_steps")}
    assert len(cells) == 9
    recovered = [f for f in record.select("grid_recovery_steps") if f.value is not None and f.value >= 2]
    captures = list(record.select("grid_capture", basis="prefix", definition="whole"))
    assert len([f for f in captures if f.value is not None]) == len(recovered) >= 3
    assert all("is below rank" in str(f.reason) for f in captures if f.value is None)


# --- gradient rank ---


@given(st.integers(1, 40), st.floats(0.1, 100))
def test_equal_directions_have_every_effective_rank_n(n: int, size: float) -> None:
    found = spectrum_statistics(np.full(n, size))
    assert found["participation_ratio"] == pytest.approx(n)
    assert found["entropy_rank"] == pytest.approx(n)
    assert found["stable_rank"] == pytest.approx(n)
    assert found["k90"] == np.ceil(0.9 * n - 1e-9)


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=30).filter(lambda x: sum(x) > 1e-6))
def test_effective_ranks_are_ordered_and_scale_free(energies: list[float]) -> None:
    found = spectrum_statistics(np.array(energies))
    assert 1 - 1e-9 <= found["stable_rank"] <= found["participation_ratio"] + 1e-9
    assert found["participation_ratio"] <= found["entropy_rank"] + 1e-6 <= len(energies) + 2e-6
    assert spectrum_statistics(7.0 * np.array(energies)) == pytest.approx(found)


def test_gradients_that_are_zero_have_no_rank() -> None:
    """One direction would be the strongest finding there is; a task that is learnt to the last bit has no gradient."""
    assert all(np.isnan(value) for value in spectrum_statistics(np.zeros(4)).values())
    figures = gradient_rank._figures(drawn_vectors(np.zeros((8, 5))), {})
    assert {f.name for f in figures if f.value is None} == {*STATISTICS, "k90_share", "mean_cosine"}
    reasons = {f.reason for f in figures if f.value is None}
    assert reasons == {"every gradient is zero", "fewer than two gradients differ from zero"}


def test_equal_gradients_have_rank_one_and_none_after_centring() -> None:
    """In float32 rounding: the tenth of a millionth that is left must not be ranked."""
    row = np.random.default_rng(0).standard_normal(50).astype(np.float32)
    noise = np.random.default_rng(1).standard_normal((8, 50)).astype(np.float32)
    rows = row * (1 + np.float32(1e-7) * noise)
    assert len(np.unique(rows, axis=0)) == 8
    figures = gradient_rank._figures(drawn_vectors(rows), {})
    for f in figures:
        if f.name == "k90" and f.labels["centred"] == "False":
            assert f.value == 1
        elif f.name in STATISTICS and f.labels["centred"] == "True":
            assert (f.value, f.reason) == (None, "all gradients are equal: nothing is left after centring")


def test_a_few_zero_gradients_leave_the_others_to_be_ranked() -> None:
    rows = np.concatenate([np.eye(4, 6), np.zeros((4, 6))])
    figures = gradient_rank._figures(drawn_vectors(rows), {})
    assert all(f.value == 4 for f in figures if f.name == "k90" and f.labels["centred"] == "False")
    assert [f.value for f in figures if f.name == "mean_cosine"] == [0]


def test_a_task_without_gradient_has_no_angle() -> None:
    first, second = gradient_rank._plane_angles("copy", "parity", random_plane(), None)
    assert first.value is second.value is None
    assert first.reason == "every gradient of parity is zero"


def drawn_vectors(rows: np.ndarray) -> Vectors:
    return Vectors(torch.from_numpy(rows), Space("full", rows.shape[1], "drawn"))


def random_plane() -> Basis:
    return random_basis(Space("full", 9, "drawn"), 2, np.random.default_rng(0))


def test_spectrum_is_that_of_dense_gradients(study: Study, ranks: Record) -> None:
    dense = dense_static(study, "broken", "copy")
    values = np.linalg.svd(dense, compute_uv=False) ** 2
    labels = {"point": "broken", "gradients": "minibatch", "labels": "true", "n": 16}
    raw = {**labels, "centred": "False", "unit_norm": "False"}
    assert ranks.value("participation_ratio", **raw) == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=1e-4)
    assert ranks.value("k90", **raw) == 1 + np.searchsorted(np.cumsum(values) / values.sum(), 0.9)
    centred = np.linalg.svd(dense - dense.mean(axis=0), compute_uv=False) ** 2
    found = ranks.value("stable_rank", **{**raw, "centred": "True"})
    assert found == pytest.approx(centred.sum() / centred[0], rel=1e-4)
    unit = dense / np.linalg.norm(dense, axis=1, keepdims=True)
    cosines = unit @ unit.T
    mean = cosines[~np.eye(16, dtype=bool)].mean()
    which = {"point": "broken", "gradients": "minibatch", "labels": "true"}
    assert ranks.value("mean_cosine", **which) == pytest.approx(mean, abs=1e-5)


def test_true_labels_carry_the_shuffled_ones_as_null(ranks: Record) -> None:
    for figure in ranks.select("k90_share", labels="true"):
        labels = {**figure.labels, "labels": "shuffled"}
        assert figure.null == ranks.value("k90_share", **labels)


def test_planes_of_tasks_are_compared_by_scipy_s_angles(study: Study, ranks: Record) -> None:
    planes = [
        np.linalg.svd(dense_static(study, "star", task), full_matrices=False)[2][:2].T for task in ("copy", "parity")
    ]
    truth = np.degrees(oracles.angles(*planes))
    labels = {"first": "copy", "second": "parity"}
    assert ranks.value("task_plane_angle", **labels, statistic="smallest") == pytest.approx(truth[0], abs=0.1)
    assert ranks.value("task_plane_angle", **labels, statistic="median") == pytest.approx(np.median(truth), abs=0.1)
