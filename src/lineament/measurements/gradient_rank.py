"""Task-gradient rank (protocol, section 1).

Quantity: spectrum of the Gram matrix G G^T of n gradients of one task at one point, single examples and minibatches.
With p_i = s_i^2 / sum s^2: participation ratio 1 / sum p_i^2, entropy rank exp(-sum p_i ln p_i), k90 (fewest directions
holding 90 % of the energy), stable rank 1 / p_1. Unit: directions, at most n. Null: gradients for labels shuffled
between examples, at equal n.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lineament.bases import Basis, principal_angles, top_directions
from lineament.measurements.measurement import Measurement, make_record
from lineament.parameters import Vectors
from lineament.records import Label, Quantity, Record
from lineament.settings.settings import Settings
from lineament.study.points import DAMAGED, TRAINED
from lineament.study.study import Study
from lineament.vectors.gradients import group_gradients
from lineament.vectors.spectrum import spectrum_statistics

NAME = "gradient_rank"
# What is left of the energy below this share is rounding of float32 gradients.
NOTHING_LEFT = 1e-12
NO_GRADIENT = "every gradient is zero"
NO_SPREAD = "all gradients are equal: nothing is left after centring"
DEFINITIONS = {
    "k90": "fewest leading directions that hold 90 % of the gradients' squared norm (protocol 1)",
    "k90_share": "k90 divided by the number of gradients n",
    "participation_ratio": "1 / sum p_i^2 with p_i = s_i^2 / sum s^2 over singular values s_i of the gradients",
    "entropy_rank": "exp(-sum p_i ln p_i)",
    "stable_rank": "1 / p_1: total squared norm over that of the strongest direction",
    "mean_cosine": "mean cosine between pairs of gradients; a strong mean direction alone gives participation 1",
    "mean_norm": "root mean squared gradient norm",
    "task_plane_angle": "smallest and median principal angle between two tasks' leading gradient planes",
    "pooled_k90": "k90 of the unit-norm gradients of all tasks together, equally many of each",
}


def measure(study: Study) -> Record:
    """Measure spectra of gradients at theta_star and theta_broken, against shuffled labels and across tasks."""
    figures: list[Quantity] = []
    arrays: dict[str, np.ndarray] = {}
    for point in (TRAINED, DAMAGED):
        for kind in ("minibatch", "example"):
            for labels in ("true", "shuffled"):
                study.progress("gradient rank", len(arrays), 8)
                rows = _gradients(study, point, kind, labels)
                which: dict[str, Label] = {"point": point, "gradients": kind, "labels": labels}
                figures += _figures(rows, which)
                arrays[f"energy-{point}-{kind}-{labels}"] = _energies(_gram(rows.rows), centred=False)
    return make_record(study, NAME, _with_nulls(figures) + _across_tasks(study), DEFINITIONS, arrays)


def _gradients(study: Study, point: str, kind: str, labels: str) -> Vectors:
    corruption = "shuffled" if labels == "shuffled" else None
    if kind == "minibatch":
        return study.minibatch_gradients(point, study.target, "static", corruption)  # type: ignore[arg-type]
    n = study.settings.measurement.gradients
    batch = study.gradient_batch(study.target, n, 1, "examples", corruption)  # type: ignore[arg-type]
    with study.problem.parameters.temporarily(study.points[point]):
        return group_gradients(study.problem, batch)


def _gram(rows: Tensor) -> np.ndarray:
    return (rows.double() @ rows.double().T).numpy()


def _energies(gram: np.ndarray, *, centred: bool, unit: bool = False) -> np.ndarray:
    """Return squared singular values, largest first; all zero where nothing but rounding is left."""
    if unit:
        gram = _cosines(gram)
    total = np.trace(gram)
    if centred:
        gram = gram - gram.mean(axis=0) - gram.mean(axis=1)[:, None] + gram.mean()
    values = np.clip(np.linalg.eigvalsh(gram)[::-1], 0, None)
    return values if values.sum() > NOTHING_LEFT * total else np.zeros_like(values)


def _cosines(gram: np.ndarray) -> np.ndarray:
    """Return inner products of the rows at unit length; a row that is zero stays zero."""
    norms = np.sqrt(np.diag(gram))
    lengths = np.where(norms > 0, norms, 1.0)
    return np.asarray(gram / np.outer(lengths, lengths))


def _figures(vectors: Vectors, which: Mapping[str, Label]) -> list[Quantity]:
    gram = _gram(vectors.rows)
    figures = []
    for n in sorted({8, 16, 32, len(gram)} & set(range(len(gram) + 1))):
        part = gram[:n, :n]
        for centred in (False, True):
            for unit in (False, True):
                labels = {**which, "n": n, "centred": str(centred), "unit_norm": str(unit)}
                figures += _ranks(_energies(part, centred=centred, unit=unit), labels, _why_zero(part))
    nonzero = int((np.diag(gram) > 0).sum())
    pairs = nonzero * (nonzero - 1)
    mean = float((_cosines(gram).sum() - nonzero) / pairs) if pairs else None
    reason = None if pairs else "fewer than two gradients differ from zero"
    figures.append(Quantity("mean_cosine", mean, "cosine", labels=which, reason=reason))
    figures.append(Quantity("mean_norm", float(np.sqrt(np.diag(gram).mean())), "nats per unit", labels=which))
    return figures


def _ranks(energies: np.ndarray, labels: Mapping[str, Label], why_zero: str) -> list[Quantity]:
    reason = None if energies.any() else why_zero
    found = spectrum_statistics(energies)
    return [
        *(Quantity(q, v, "directions", labels=labels, reason=reason) for q, v in found.items()),
        Quantity("k90_share", found["k90"] / len(energies), "fraction", labels=labels, reason=reason),
    ]


def _why_zero(gram: np.ndarray) -> str:
    return NO_SPREAD if np.trace(gram) > 0 else NO_GRADIENT


def _with_nulls(figures: list[Quantity]) -> list[Quantity]:
    """Put each shuffled-label value beside the quantity with true labels."""

    def key(figure: Quantity) -> tuple[object, ...]:
        return figure.name, *sorted((k, v) for k, v in figure.labels.items() if k != "labels")

    nulls = {key(f): f.value for f in figures if f.labels["labels"] == "shuffled"}
    return [replace(f, null=nulls[key(f)]) if f.labels["labels"] == "true" else f for f in figures]


def _across_tasks(study: Study) -> list[Quantity]:
    rank = study.settings.measurement.drift_rank
    sets = {task: study.minibatch_gradients(TRAINED, task, "static") for task in study.problem.tasks}
    planes = {task: top_directions(v, rank, task) if v.rows.any() else None for task, v in sets.items()}
    figures = [
        figure
        for i, first in enumerate(planes)
        for second in list(planes)[i + 1 :]
        for figure in _plane_angles(first, second, planes[first], planes[second])
    ]
    n = study.settings.measurement.gradients // len(sets)
    pooled = _energies(_gram(torch.cat([v.rows[:n] for v in sets.values()])), centred=False, unit=True)
    labels: dict[str, Label] = {"n": len(pooled), "tasks": len(sets)}
    reason = None if pooled.any() else NO_GRADIENT
    k90 = spectrum_statistics(pooled)["k90"]
    return [*figures, Quantity("pooled_k90", k90, "directions", labels=labels, reason=reason)]


def _plane_angles(first: str, second: str, one: Basis | None, other: Basis | None) -> list[Quantity]:
    """Return the smallest and median angle; undefined where a task has no gradient."""
    angles = np.degrees(principal_angles(one, other).numpy()) if one and other else None
    reason = None if angles is not None else f"every gradient of {first if one is None else second} is zero"
    figures = []
    for statistic, of in (("smallest", np.min), ("median", np.median)):
        labels: dict[str, Label] = {"first": first, "second": second, "statistic": statistic}
        value = float(of(angles)) if angles is not None else None
        figures.append(Quantity("task_plane_angle", value, "degrees", labels=labels, reason=reason))
    return figures


def cost(settings: Settings, n_tasks: int) -> dict[str, float]:
    """Count the example passes of one target."""
    m = settings.measurement
    return {"gradient rank": m.gradients * m.minibatch * (n_tasks + 3) + 4.0 * m.gradients}


MEASUREMENT = Measurement(NAME, measure, cost)
