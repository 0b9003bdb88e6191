"""The rank that dW used in each adapted weight: a grid of layers by kinds of modules, and a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lineament.records import Quantity, Record
from lineament.report.estimates import Estimate, blind_of, estimate, label_texts, nulls_of, number, select
from lineament.report.grids import Cell, Grid, layer_grid
from lineament.report.rendering import identifier
from lineament.report.series import Table

MAX_MODULES = 40
GRID_NOTE = (
    "Directions that hold 90 % of |dW|² in each adapted weight (k90), darker where more of the rank that was paid for "
    "is used."
)


def module_grids(sources: Sequence[Record]) -> list[Grid]:
    """Return the rank used over the rank paid for, by layer and kind of module; none where no adapter was trained."""
    modules = [_module(sources, name) for name in label_texts(sources, "module_rank", "module")]
    known = [module for module in modules if module["used"].mean is not None]
    if not known:
        return []
    paid = ", ".join(dict.fromkeys(number(module["paid"]) for module in known))
    title = f"Rank used of the {paid} paid for, by layer and module"
    blind = [module["blind"] for module in known if module["blind"] is not None]
    beside = f" A blind run uses {number(sum(blind) / len(blind))} on average." if blind else ""
    return [layer_grid(f"rank-used-{identifier(sources[0].target)}", title, known, _cell, GRID_NOTE + beside)]


def _module(sources: Sequence[Record], name: str) -> dict[str, Any]:
    found = select(sources, "module_rank", module=name, statistic="k90")
    paid = max((float(quantity.labels["paid"]) for quantity in found), default=0.0)
    used = _mean_rank(found)
    return {"module": name, "paid": paid, "used": used, "blind": blind_of(found).mean}


def _mean_rank(found: Sequence[Quantity]) -> Estimate:
    """Return the mean rank over recordings, as `advise` has it, its interval cut at 0."""
    return estimate(found, fraction=False).clipped(0.0, math.inf)


def _cell(module: Mapping[str, Any]) -> Cell:
    used: Estimate = module["used"]
    blind = "" if module["blind"] is None else f"; blind run {number(module['blind'])}"
    ends = f" {used.interval_text}" if used.low is not None else ""
    details = f"{module['module']}: {used.value_text}{ends} of {number(module['paid'])}{blind}"
    return Cell(used.value_text, (used.mean or 0.0) / module["paid"], details)


def module_table(sources: Sequence[Record]) -> Table | None:
    """Tabulate the effective rank of dW in each adapted weight."""
    modules = label_texts(sources, "module_rank", "module")
    if not modules:
        return None
    rows = []
    for module in modules[:MAX_MODULES]:
        ratios = select(sources, "module_rank", module=module, statistic="participation_ratio")
        k90s = select(sources, "module_rank", module=module, statistic="k90")
        cells = [_mean_rank(quantities).text for quantities in (ratios, k90s)]
        # The null follows from the shape of the weight and its LoRA rank, so it is the same in every recording.
        null = next((number(null) for null in nulls_of(ratios)), "-")
        blind = blind_of(ratios).mean
        beside = ("-" if blind is None else number(blind), null)
        rows.append((module, number(float(ratios[0].labels["paid"])), *cells, *beside))
    more = len(modules) - len(rows)
    note = f"The records hold {more} more modules." if more else ""
    columns = (
        *("module", "LoRA rank", "participation ratio", "k90"),
        *("blind run: participation ratio", "null (Gaussian factors): participation ratio"),
    )
    return Table("How many directions dW used in each adapted weight", columns, rows, note, folded=True)
