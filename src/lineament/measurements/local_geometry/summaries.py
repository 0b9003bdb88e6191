"""What the pairs and tasks of one operating point say together: medians and shares.

Pairs of one model are not independent, so each figure here counts once, and intervals are taken over seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from lineament.measurements.local_geometry.pairs import ETA_KAPPA, JUDGED_SIZE
from lineament.measurements.local_geometry.windows import LENGTHS
from lineament.records import Label, Quantity
from lineament.vectors.local_geometry import TOLERANCE

KINDS = ("between", "within")
SUMMARY_DEFINITIONS = {
    "median_window": "geometric median of the windows over tasks; one that is not crossed counts as the largest length",
    "median_kappa": "median of kappa over pairs",
    "share_additive": "share of pairs whose additivity defect is below 0.1 at eps = 0.01",
    "pair_radius_decades": "log10 of the 90th over the 10th percentile of the pairs' radii",
    "median_order_ratio": "median over pairs of the order defect over its prediction",
    "median_onset_kappa": "median over pairs of onset times kappa",
    "median_onset_error": "median over pairs of |onset kappa / 0.1 - 1|: how well kappa predicts the onset",
    "onset_decades": "log10 of the 90th over the 10th percentile of the pairs' onsets, as lengths",
    "share_inside_window": "share of pairs whose order matters (onset, as a length) inside both tasks' windows; one "
    "whose onset is beyond the largest step size is not",
    "n_left_out": "figures of this name without a value; each carries its reason",
}


def summaries(figures: Sequence[Quantity]) -> Iterator[Quantity]:
    """Yield the medians and shares of one operating point.

    Args:
        figures: of `windows` and `pairs`.
    """
    for direction in ("gradient", "task_vector", "random"):
        values = _values(figures, "window", direction=direction)
        yield _summary("median_window", _geometric_median(values), LENGTHS, {"direction": direction})
    for kind in (*KINDS, "random"):
        defects = _values(figures, "additivity_defect", pair=kind, eps=JUDGED_SIZE)
        share = float(np.mean(np.array(defects) < TOLERANCE)) if defects else None
        yield _summary("share_additive", share, "fraction", {"pair": kind})
    for kind in KINDS:
        yield from _of_kind(figures, kind)
    for name in ("window", "additivity_defect", "pair_radius", "order_defect", "onset"):
        missing = sum(figure.value is None for figure in figures if figure.name == name)
        yield Quantity("n_left_out", float(missing), "count", labels={"of": name})


def _of_kind(figures: Sequence[Quantity], kind: str) -> Iterator[Quantity]:
    labels: dict[str, Label] = {"pair": kind}
    yield _summary("median_kappa", _median(_values(figures, "kappa", pair=kind)), "per step-size unit", labels)
    yield _summary("pair_radius_decades", _decades(_values(figures, "pair_radius", pair=kind)), "decades", labels)
    yield _summary("onset_decades", _decades(_values(figures, "onset_eps", pair=kind)), "decades", labels)
    for share in ETA_KAPPA:
        ratio = _median(_values(figures, "order_ratio", pair=kind, eta_kappa=share))
        yield _summary("median_order_ratio", ratio, "ratio", {**labels, "eta_kappa": share})
    onsets = _values(figures, "onset_kappa", pair=kind)
    yield _summary("median_onset_kappa", _median(onsets), "fraction", labels)
    errors = [abs(onset / TOLERANCE - 1) for onset in onsets]
    yield _summary("median_onset_error", _median(errors), "fraction", labels)
    yield _summary("share_inside_window", _share_inside(figures, kind), "fraction", labels)


def _share_inside(figures: Sequence[Quantity], kind: str) -> float | None:
    """Return the share of pairs whose onset lies inside the smaller window; pairs without kappa or window are none."""
    windows = {q.labels["task"]: q.value for q in figures if q.matches("window", direction="gradient")}
    inside = []
    for figure in figures:
        if figure.matches("onset_eps", pair=kind):
            both = [windows.get(figure.labels[end]) for end in ("first", "second")]
            known = [window for window in both if window is not None]
            if len(known) == 2:
                inside.append(figure.value is not None and figure.value < min(known))
    return float(np.mean(inside)) if inside else None


def _values(figures: Sequence[Quantity], name: str, **labels: Label) -> list[float]:
    return [figure.value for figure in figures if figure.matches(name, **labels) and figure.value is not None]


def _summary(name: str, value: float | None, unit: str, labels: dict[str, Label]) -> Quantity:
    reason = "no task or pair has a value" if value is None else None
    return Quantity(name, value, unit, labels=labels, reason=reason)


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def _geometric_median(values: Sequence[float]) -> float | None:
    """Return the median on a logarithmic axis; 0 where half of the values are."""
    positive = np.array(values)
    with np.errstate(divide="ignore"):
        return float(np.exp(np.median(np.log(positive)))) if values else None


def _decades(values: Sequence[float]) -> float | None:
    """Return log10 of the 90th over the 10th percentile; None for fewer than two positive values."""
    positive = [value for value in values if value > 0]
    if len(positive) < 2:
        return None
    low, high = np.percentile(np.log10(positive), (10, 90))
    return float(high - low)
