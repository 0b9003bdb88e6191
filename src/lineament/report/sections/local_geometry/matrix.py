"""All pairs at a glance: onset, order defect over its prediction, additivity; the diagonal is the control."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lineament.records import Record
from lineament.report.estimates import Estimate, estimate_known, number
from lineament.report.sections.local_geometry.pairs import geometric, narrowed, near, of_pair, pairs_of, tasks_of
from lineament.report.series import Matrix, Picture

Place = tuple[int, int]
Cells = Mapping[Place, Estimate]
CAPTION = (
    "Rows and columns are tasks, numbered below. The diagonal, marked by the same number twice, is the control: two "
    "batches of one task. Left: the step size eta at which the order of two steps changes 10 % of where they lead; "
    "dark is early. Middle: the order defect over eta kappa, which gradients and curvature predict; light is 1. Right: "
    "the share by which two steps' changes of the loss do not add up at a hundredth of a task vector; dark is much. "
    "Means over seeds (of the first and third geometric); colours of the first and third are logarithmic."
)
NOT_REACHED = "no onset at any step size that was tried"


def matrix_picture(sources: Sequence[Record]) -> Picture | None:
    """Draw the matrices of onset, of order defect over its prediction and of additivity."""
    tasks = tasks_of(sources)
    onsets = _onsets(sources, tasks)
    if not onsets:
        return None
    panels = [
        Matrix("onset (step size)", tasks, onsets, _early(onsets)),
        *_order(sources, tasks),
        *_additivity(sources, tasks),
    ]
    names = ", ".join(f"{place + 1} {task}" for place, task in enumerate(tasks))
    return Picture("geometry-pairs", _title(onsets), CAPTION, panels, sources, [f"Tasks: {names}."])


def _onsets(sources: Sequence[Record], tasks: Sequence[str]) -> Cells:
    cells, own = {}, narrowed(sources, "onset")
    for i, j in pairs_of(tasks):
        found = of_pair(own, "onset", tasks[i], tasks[j])
        point = geometric(found)
        if found:
            cells[i, j] = point if point.mean is not None else replace(point, reason=NOT_REACHED)
    return cells


def _order(sources: Sequence[Record], tasks: Sequence[str]) -> list[Matrix]:
    at = near(sources, "order_ratio", "eta_kappa", 0.01)
    cells, own = {}, narrowed(sources, "order_ratio", **at)
    for i, j in pairs_of(tasks):
        found = of_pair(own, "order_ratio", tasks[i], tasks[j])
        if found:
            cells[i, j] = estimate_known(found, [ratio.value for ratio in found])
    shades = {p: min(1.0, abs(math.log(c.mean)) / math.log(2)) for p, c in cells.items() if c.mean}
    return [Matrix("order defect / predicted", tasks, cells, shades)] if cells else []


def _additivity(sources: Sequence[Record], tasks: Sequence[str]) -> list[Matrix]:
    at = near(sources, "additivity_defect", "eps", 0.01)
    cells, own = {}, narrowed(sources, "additivity_defect", **at)
    for i, j in pairs_of(tasks):
        found = of_pair(own, "additivity_defect", tasks[i], tasks[j])
        if found:
            cells[i, j] = geometric(found, lowest=1e-12)
    # 0.001 is light, 1 is dark
    shades = {p: min(1.0, max(0.0, 1 + math.log10(c.mean) / 3)) for p, c in cells.items() if c.mean}
    return [Matrix(f"additivity defect at {number(float(at['eps']))}", tasks, cells, shades)] if cells else []


def _early(cells: Cells) -> dict[Place, float]:
    """Return shades that are dark where a value is small, on logarithms from the smallest to the largest."""
    logs = {place: math.log10(cell.mean) for place, cell in cells.items() if cell.mean}
    if not logs:
        return {}
    low, high = min(logs.values()), max(logs.values())
    return {place: 0.5 if high == low else 0.05 + 0.9 * (high - value) / (high - low) for place, value in logs.items()}


def _title(onsets: Cells) -> str:
    known = [cell.mean for (i, j), cell in onsets.items() if i != j and cell.mean]
    if len(known) < 2:
        return "At which step size the order of two updates matters"
    span = f"from {number(min(known))} to {number(max(known))}"
    return f"The step size at which the order of two tasks matters lies between pairs {span}"
