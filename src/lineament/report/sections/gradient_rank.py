"""How many directions gradients use: spectra and effective ranks, against shuffled labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lineament.records import Label, Record
from lineament.report.estimates import (
    Estimate,
    estimate,
    estimate_values,
    label_integers,
    mean_null,
    null_of,
    number,
    select,
)
from lineament.report.sections.section import Section, each
from lineament.report.series import BLUE, GREY, VERMILLION, Line, Panel, Picture, Style, Table, reference_line
from lineament.report.words import POINTS
from lineament.study.points import DAMAGED, TRAINED

# Which of the spectra the page shows.
RAW: dict[str, Label] = {"centred": "False", "unit_norm": "False"}
CAPTION = (
    "Share of the gradients' squared length that their strongest directions hold. A curve that rises at once means "
    "that few directions hold nearly all of it. Shuffled labels (dashed) are the null: structure that has nothing to "
    "do with the task. Bands: 95 % interval over seeds."
)


def spectrum_picture(sources: Sequence[Record]) -> Picture | None:
    """Draw the cumulative energy against the number of directions, for true and for shuffled labels."""
    if not any(name.startswith("energy-") for record in sources for name in record.arrays):
        return None
    titles = {"minibatch": "minibatch gradients", "example": "single-example gradients"}
    panels = [_spectrum_panel(sources, kind, title) for kind, title in titles.items()]
    return Picture("spectrum", _spectrum_title(sources), CAPTION, panels, sources)


def spectrum_table(sources: Sequence[Record]) -> Table | None:
    """Tabulate effective ranks at the largest n, uncentred raw gradients, beside shuffled labels."""
    sizes = label_integers(sources, "k90", "n")
    if not sizes:
        return None
    rows = [
        _spectrum_row(sources, name, point, kind, max(sizes))
        for name in ("k90", "participation_ratio", "entropy_rank", "stable_rank", "mean_cosine")
        for point in (DAMAGED, TRAINED)
        for kind in ("minibatch", "example")
    ]
    columns = ("quantity", "point", "gradients", "true labels", "null: shuffled labels")
    note = "Not centred, norms as they are; in directions (mean cosine: a cosine). The records hold other variants."
    return Table(f"Effective ranks of {max(sizes)} gradients", columns, rows, note)


def _spectrum_panel(sources: Sequence[Record], kind: str, title: str) -> Panel:
    lines = []
    for point, color in ((DAMAGED, VERMILLION), (TRAINED, BLUE)):
        for labels, dash in (("true", "solid"), ("shuffled", "dash")):
            label = f"{POINTS[point]} point, {labels} labels"
            style = Style(color, dash, width=3 if labels == "true" else 1.8)
            lines += _energy_line(sources, f"{point}-{kind}-{labels}", f"{point}-{labels}", label, style)
    longest = max((len(line.x) for line in lines), default=1)
    goal = reference_line("goal", "90 % of the energy", [1, longest], Estimate(0.9), Style(GREY, "dot", width=1.2))
    x_title, y_title = "number of directions", "cumulative energy (fraction)"
    return Panel(title, x_title, y_title, [*lines, goal], x_name="directions")


def _energy_line(sources: Sequence[Record], array: str, key: str, label: str, style: Style) -> list[Line]:
    energies = [record.arrays[f"energy-{array}"] for record in sources if f"energy-{array}" in record.arrays]
    if not energies:
        return []
    count = min(len(energy) for energy in energies)
    shares = [np.cumsum(energy) / energy.sum() for energy in energies]
    points = _rising([estimate_values([float(share[i]) for share in shares], fraction=True) for i in range(count)])
    return [Line(key, label, "gradients", style, list(range(1, count + 1)), points, mode="band", tabled=9)]


def _rising(points: Sequence[Estimate]) -> list[Estimate]:
    """Return points whose lower ends never fall: a sum over more directions is no smaller, so earlier ends bound it.

    Without this the logit interval opens wide at the last directions, where seeds differ by 1e-6 below 1.
    """
    rising, low = [], 0.0
    for point in points:
        if point.low is not None:
            low = max(low, point.low)
            point = replace(point, low=low)
        rising.append(point)
    return rising


def _spectrum_title(sources: Sequence[Record]) -> str:
    labels: dict[str, Label] = {"point": DAMAGED, "gradients": "minibatch", "labels": "true", **RAW}
    known = [quantity for quantity in select(sources, "k90", **labels) if quantity.value is not None]
    n = max((int(quantity.labels["n"]) for quantity in known), default=0)
    largest = [quantity for quantity in known if quantity.labels["n"] == n]
    true, shuffled = estimate(largest, fraction=False).mean, mean_null(largest)
    if true is None or shuffled is None:
        return "In how many directions the gradients lie"
    share = f"At the damaged point {number(true)} of {n} directions hold 90 % of the gradients' energy"
    return f"{share} ({number(shuffled)} with shuffled labels)"


def _spectrum_row(sources: Sequence[Record], name: str, point: str, kind: str, n: int) -> tuple[str, ...]:
    labels: dict[str, Label] = {"point": point, "gradients": kind, "labels": "true"}
    if name != "mean_cosine":
        labels |= {"n": n, **RAW}
    quantities = select(sources, name, **labels)
    values = estimate(quantities, fraction=False).text, null_of(quantities).text
    return (name.replace("_", " "), POINTS[point], kind, *values)


SHUFFLED = "gradients for shuffled labels"
SECTION = Section(
    "gradient_rank",
    "How many directions gradients use",
    "spectra of the task's gradients",
    pictures=each(spectrum_picture),
    tables=each(spectrum_table),
    nulls=dict.fromkeys(
        ("k90", "k90_share", "participation_ratio", "entropy_rank", "stable_rank", "mean_cosine"), SHUFFLED
    ),
)
