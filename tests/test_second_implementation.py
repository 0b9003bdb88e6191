"""Records of a real run, and blind runs, against a second implementation that shares no code with the package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from second_implementation import (
    blind_adam_rows,
    captured,
    half_life,
    left_of_displacement,
    record,
    recorded_rows,
)

from lineament.streams import Streams
from lineament.vectors.blind import UpdateRule, blind_gram

SEEDS = (0, 1)
DRAWS = 20


def captures_in(body: dict[str, Any]) -> Iterator[tuple[dict[str, Any], float]]:
    for entry in body["figures"]:
        labels = entry["labels"]
        if entry["quantity"] == "capture" and labels["space_of"] == "parameters" and entry["value"] is not None:
            yield labels, entry["value"]


def end_points(body: dict[str, Any]) -> dict[str, int]:
    """T, and T_loss where the loss gap was closed, by the labels of captures."""
    names = {"recovery_steps": "T", "loss_step": "T_loss"}
    reached = [f for f in body["figures"] if f["quantity"] in names and f["value"] is not None]
    return {names[f["quantity"]]: int(f["value"]) for f in reached}


@pytest.mark.parametrize("seed", SEEDS)
def test_captures_by_updates_are_those_of_the_recorded_rows(finished: Path, seed: int) -> None:
    body, rows = record(finished, "basis_capture", "copy", seed), recorded_rows(finished / f"recording/copy-seed{seed}")
    ends, checked = end_points(body), set()
    for labels, value in captures_in(body):
        rank, end = labels["rank"], ends[labels["at"]]
        if labels["basis"] == "prefix":
            draws = [np.arange(rank)]
        elif labels["basis"] == "control_random_times":
            generator = Streams(seed).child("study", "copy").generator("random times", rank)
            draws = [generator.permutation(end)[:rank] for _ in range(DRAWS)]
        else:
            continue
        vectors = [left_of_displacement(rows, end, chosen, labels["definition"]) for chosen in draws]
        values = [captured(rows, c, v) for c, v in zip(draws, vectors, strict=True) if v.any()]
        assert value == pytest.approx(np.mean(values), abs=1e-6), labels
        checked.add((labels["basis"], labels["definition"], labels["at"]))
    assert "T" in ends
    assert len(checked) == 2 * 3 * len(ends)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_best_directions_of_all_updates_are_right_singular_vectors(finished: Path, seed: int) -> None:
    body, rows = record(finished, "basis_capture", "copy", seed), recorded_rows(finished / f"recording/copy-seed{seed}")
    end = end_points(body)["T"]
    directions = np.linalg.svd(rows[:end], full_matrices=False)[2]
    whole = rows[:end].sum(axis=0)
    values = {
        labels["rank"]: value
        for labels, value in captures_in(body)
        if (labels["basis"], labels["definition"], labels["at"]) == ("trajectory_top", "whole", "T")
    }
    assert values
    for rank, value in values.items():
        expected = np.square(directions[:rank] @ whole).sum() / np.square(whole).sum()
        assert value == pytest.approx(expected, abs=1e-6), rank


@pytest.mark.parametrize("seed", SEEDS)
def test_half_lives_follow_from_the_overlaps(finished: Path, seed: int) -> None:
    body = record(finished, "basis_drift", "copy", seed)
    for start in ("broken", "recovered"):
        rescaled = [
            (f["labels"]["lag"], f["value"])
            for f in body["figures"]
            if f["quantity"] == "rescaled_overlap" and f["labels"]["from"] == start and f["value"] is not None
        ]
        written = next(f for f in body["figures"] if f["quantity"] == "half_life" and f["labels"]["from"] == start)
        expected = half_life([lag for lag, _ in rescaled], [value for _, value in rescaled])
        assert written["value"] == (None if expected is None else pytest.approx(expected, abs=1e-6))


@pytest.mark.parametrize(("beta1", "n_steps"), [(0.9, 35), (0.9, 80), (0.0, 40)])
def test_blind_adam_is_the_mean_of_runs_written_out_as_sums(beta1: float, n_steps: int) -> None:
    gram = blind_gram(UpdateRule("adamw", momentum=beta1), n_steps, n_coordinates=200_000)
    first, whole = np.arange(5), gram.displacement(1, n_steps)
    values = {
        "whole": gram.capture(gram.prefix(5), whole),
        "rest": gram.capture(gram.prefix(5), gram.displacement(6, n_steps)),
    }
    generator, drawn = np.random.default_rng(0), {name: [] for name in values}  # type: dict[str, list[float]]
    for _ in range(8):
        rows = blind_adam_rows(n_steps, 20_000, beta1, 0.999, 1e-8, generator)
        for name in values:
            drawn[name].append(captured(rows, first, left_of_displacement(rows, n_steps, first, name)))
    for name, value in values.items():
        stderr = np.std(drawn[name], ddof=1) / np.sqrt(8)
        # the finite width adds k / n_params = 2.5e-4 to every capture
        assert abs(value - np.mean(drawn[name])) < 3.5 * stderr + 5e-4, name


@pytest.mark.parametrize("seed", SEEDS)
def test_captures_by_horizon_are_those_of_the_recorded_rows(finished: Path, seed: int) -> None:
    body = record(finished, "capture_by_horizon", "copy", seed)
    rows = recorded_rows(finished / f"recording/copy-seed{seed}")
    checked = set()
    for entry in body["figures"]:
        labels = entry["labels"]
        if entry["quantity"] != "horizon_capture" or labels["basis"] != "prefix":
            continue
        chosen = np.arange(labels["rank"])
        vector = left_of_displacement(rows, labels["horizon"], chosen, labels["definition"])
        assert entry["value"] == pytest.approx(captured(rows, chosen, vector), abs=1e-6), labels
        assert 0 <= entry["blind"] <= 1
        checked.add((labels["definition"], labels["horizon"]))
    horizons = {horizon for _, horizon in checked}
    assert max(horizons) == end_points(record(finished, "basis_capture", "copy", seed))["T"]
    assert len(checked) == 2 * len(horizons) > 2


@pytest.mark.parametrize("seed", SEEDS)
def test_refresh_lags_follow_from_the_retention(finished: Path, seed: int) -> None:
    body = record(finished, "basis_drift", "copy", seed)
    for start in ("broken", "recovered"):
        held = [
            (f["labels"]["lag"], f["value"])
            for f in body["figures"]
            if f["quantity"] == "retention_share" and f["labels"]["from"] == start and f["value"] is not None
        ]
        for f in body["figures"]:
            if f["quantity"] != "refresh_lag" or f["labels"]["from"] != start:
                continue
            lags, values = [lag for lag, _ in held], [value for _, value in held]
            expected = half_life(lags, values, f["labels"]["share"])
            assert f["value"] == (None if expected is None else pytest.approx(expected, abs=1e-6)), f["labels"]
