"""Task-gradient rank (protocol, section 1).

Quantity: spectrum of the Gram matrix G G^T of n gradients of one task at one point, single examples and minibatches.
With p_i = s_i^2 / sum s^2: participation ratio 1 / sum p_i^2, entropy rank exp(-sum p_i ln p_i), k90 (fewest directions
holding 90 % of the energy), stable rank 1 / p_1. Unit: directions, at most n. Null: gradients for labels shuffled
between examples, at equal n.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from lineament.bases import principal_angles, top_directions
from lineament.measurements.measurement import make_record
from lineament.parameters import Vectors
from lineament.records import Figure, Label, Record
from lineament.study import Study
from lineament.vectors.gradients import group_gradients

NAME = "gradient_rank"
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
    """Spectra of the target's gradients at theta_star and theta_broken, against shuffled labels and across tasks."""
    figures: list[Figure] = []
    arrays: dict[str, np.ndarray] = {}
    for point in ("star", "broken"):
        for kind in ("minibatch", "example"):
            for labels in ("true", "shuffled"):
                study.progress("gradient rank", len(arrays), 8)
                rows = _gradients(study, point, kind, labels)
                which: dict[str, Label] = {"point": point, "gradients": kind, "labels": labels}
                figures += _figures(rows, which)
                arrays[f"energy-{point}-{kind}-{labels}"] = _energies(_gram(rows), centred=False)
    return make_record(study, NAME, _with_nulls(figures) + _across_tasks(study), DEFINITIONS, arrays)


def spectrum_statistics(energies: np.ndarray) -> dict[str, float]:
    """Effective ranks of a spectrum.

    Args:
        energies: squared singular values (n,), any order, not all zero.
    """
    p = np.sort(np.clip(energies, 0, None))[::-1]
    p = p / p.sum()
    inside = p[p > 0]
    return {
        "participation_ratio": float(1 / np.square(p).sum()),
        "entropy_rank": float(np.exp(-(inside * np.log(inside)).sum())),
        "k90": float(np.searchsorted(np.cumsum(p), 0.9 - 1e-12) + 1),
        "stable_rank": float(1 / p[0]),
    }


def _gradients(study: Study, point: str, kind: str, labels: str) -> Vectors:
    corruption = "shuffled" if labels == "shuffled" else None
    if kind == "minibatch":
        return study.minibatch_gradients(point, study.target, "static", corruption)  # type: ignore[arg-type]
    n = study.settings.measurement.gradients
    batch = study.gradient_batch(study.target, n, 1, "examples", corruption)  # type: ignore[arg-type]
    with study.problem.space.temporarily(study.points[point]):
        return group_gradients(study.problem, batch)


def _gram(vectors: Vectors) -> np.ndarray:
    rows = vectors.rows.double()
    return (rows @ rows.T).numpy()


def _energies(gram: np.ndarray, *, centred: bool, unit: bool = False) -> np.ndarray:
    if unit:
        norms = np.sqrt(np.diag(gram))
        gram = gram / np.outer(norms, norms)
    if centred:
        gram = gram - gram.mean(axis=0) - gram.mean(axis=1)[:, None] + gram.mean()
    return np.clip(np.linalg.eigvalsh(gram)[::-1], 0, None)


def _figures(vectors: Vectors, which: Mapping[str, Label]) -> list[Figure]:
    gram = _gram(vectors)
    figures = []
    for n in sorted({8, 16, 32, len(gram)} & set(range(len(gram) + 1))):
        part = gram[:n, :n]
        for centred in (False, True):
            for unit in (False, True):
                labels = {**which, "n": n, "centred": str(centred), "unit_norm": str(unit)}
                found = spectrum_statistics(_energies(part, centred=centred, unit=unit))
                figures += [Figure(q, v, "directions", labels=labels) for q, v in found.items()]
                figures.append(Figure("k90_share", found["k90"] / n, "fraction", labels=labels))
    norms = np.sqrt(np.diag(gram))
    cosines = gram / np.outer(norms, norms)
    mean = (cosines.sum() - len(gram)) / (len(gram) * (len(gram) - 1))
    figures.append(Figure("mean_cosine", float(mean), "cosine", labels=which))
    figures.append(Figure("mean_norm", float(np.sqrt(np.diag(gram).mean())), "nats per unit", labels=which))
    return figures


def _with_nulls(figures: list[Figure]) -> list[Figure]:
    """Put each shuffled-label value beside its true-label figure."""

    def key(figure: Figure) -> tuple[object, ...]:
        return figure.quantity, *sorted((k, v) for k, v in figure.labels.items() if k != "labels")

    nulls = {key(f): f.value for f in figures if f.labels["labels"] == "shuffled"}
    return [
        Figure(f.quantity, f.value, f.unit, null=nulls[key(f)], labels=f.labels) if f.labels["labels"] == "true" else f
        for f in figures
    ]


def _across_tasks(study: Study) -> list[Figure]:
    rank = study.settings.measurement.drift_rank
    sets = {task: study.minibatch_gradients("star", task, "static") for task in study.problem.tasks}
    planes = {task: top_directions(vectors, rank, task) for task, vectors in sets.items()}
    figures = []
    for i, first in enumerate(planes):
        for second in list(planes)[i + 1 :]:
            angles = np.degrees(principal_angles(planes[first], planes[second]).numpy())
            for statistic, value in (("smallest", angles[0]), ("median", np.median(angles))):
                labels: dict[str, Label] = {"first": first, "second": second, "statistic": statistic}
                figures.append(Figure("task_plane_angle", float(value), "degrees", labels=labels))
    n = study.settings.measurement.gradients // len(sets)
    pooled = torch.cat([v.rows[:n].double() for v in sets.values()])
    pooled = pooled / pooled.norm(dim=1, keepdim=True)
    energies = np.clip(np.linalg.eigvalsh((pooled @ pooled.T).numpy()), 0, None)
    k90 = spectrum_statistics(energies)["k90"]
    figures.append(Figure("pooled_k90", k90, "directions", labels={"n": len(pooled), "tasks": len(sets)}))
    return figures
