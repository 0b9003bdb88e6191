"""Order defect: measured against what gradients and curvature at one point predict."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.records import Record
from lineament.report.estimates import Estimate, estimate, estimate_positive, label_numbers, number, select
from lineament.report.sections.local_geometry.pairs import KINDS, geometric, narrowed, near, of_pair, pairs_of, tasks_of
from lineament.report.series import GREY, Line, Panel, Picture, Style

CAPTION = (
    "One dot per pair and step size. Across: the order defect that the gradients and one Hessian-vector product each "
    "predict, eta kappa; up: the measured one, |F_B F_A theta - F_A F_B theta| / (eta |g_A + g_B|). On the dashed line "
    "both agree; the dotted line is 0.1, where order is said to matter. Geometric means over seeds."
)
# Dots of the two kinds stand a little left and right of their place, as factors.
ASIDE = {"between": 0.95, "within": 1.06}


def order_picture(sources: Sequence[Record]) -> Picture | None:
    """Draw the measured against the predicted order defect, log-log, with the diagonal."""
    lines = [line for kind in KINDS if (line := _dots(sources, kind)) is not None]
    if not lines:
        return None
    ends = [x for line in lines for x in line.x]
    diagonal = [min(ends) / 1.5, max(ends) * 1.5]
    points, style = [Estimate(end) for end in diagonal], Style(GREY, "dash", width=1.2)
    lines.append(Line("equal", "measured = predicted", "reference", style, diagonal, points, "plain", tabled=0))
    tenth = [Estimate(0.1)] * 2
    lines.append(
        Line("tenth", "order matters: 0.1", "reference", Style(GREY, "dot"), diagonal, tenth, "plain", tabled=0)
    )
    x_title, y_title = "predicted order defect eta kappa (fraction)", "measured order defect (fraction)"
    panel = Panel("", x_title, y_title, lines, x_log=True, y_log=True, fraction=False, x_name="predicted")
    return Picture("geometry-order", _title(sources), CAPTION, [panel], sources, _notes(sources))


def _dots(sources: Sequence[Record], kind: str) -> Line | None:
    tasks, (words, style) = tasks_of(sources), KINDS[kind]
    x: list[float] = []
    points: list[Estimate] = []
    for share in label_numbers(sources, "order_defect", "eta_kappa"):
        own = narrowed(sources, "order_defect", "order_defect_predicted", pair=kind, eta_kappa=share)
        for i, j in pairs_of(tasks):
            if (i == j) != (kind == "within"):
                continue
            defects = of_pair(own, "order_defect", tasks[i], tasks[j])
            predicted = geometric(of_pair(own, "order_defect_predicted", tasks[i], tasks[j])).mean
            point = geometric(defects)
            if point.mean is not None and predicted is not None:
                x.append(predicted * ASIDE[kind])
                who = tasks[i] if i == j else f"{tasks[i]}, {tasks[j]}"
                points.append(Estimate(point.mean, point.low, point.high, point.n_seeds, who, point.pair))
    return Line(kind, words, "pairs", style, x, points, mode="dots", bars=False, tabled=60) if points else None


def _notes(sources: Sequence[Record]) -> list[str]:
    notes = []
    for kind, (words, _) in KINDS.items():
        onset = estimate(select(sources, "median_onset_kappa", pair=kind), fraction=False)
        error = estimate_positive(select(sources, "median_onset_error", pair=kind))
        if onset.mean is not None:
            notes.append(
                f"Onset times kappa, median over pairs ({words}): {onset.text} (predicted: 0.1); typical error of the "
                f"predicted onset: {error.text}."
            )
    return notes


def _title(sources: Sequence[Record]) -> str:
    at = near(sources, "median_order_ratio", "eta_kappa", 0.01)
    ratio = estimate(select(sources, "median_order_ratio", pair="between", **at), fraction=False)
    if ratio.mean is None:
        return "Order defect, measured and predicted"
    where = number(float(at["eta_kappa"]))
    return f"The order defect is {number(ratio.mean)} times the predicted one where eta kappa is {where}"
