"""Pictures of a sweep: what a claim measures along every varied key."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lineament.report.estimates import Estimate, number
from lineament.report.series import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILLION,
    Line,
    Panel,
    Picture,
    Style,
    reference_line,
)
from lineament.report.sweep.claim_grid import ClaimGrid, settings_words
from lineament.settings.words import short_keys, value_words

# Combinations of the other keys: so many are drawn at first, so many more wait in the legend.
SERIES_SHOWN, MAX_SERIES = 6, 24
PANELS_SIDE_BY_SIDE = 3
MAX_TICKS = 12
# Values that span at least this factor stand on a logarithmic axis.
LOG_FROM = 10
# Shares that all lie below this are drawn on an axis of their own: from 0 to 1 they could not be told apart.
SHARES_FROM = 0.25
COLORS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, BLACK)
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "star")
DASHES = ("solid", "dash", "dot", "dashdot")
# What stands beside a measured value, by its symbol where it differs between cells.
BESIDE = {"null": "x", "blind": "triangle-left"}


def claim_pictures(grid: ClaimGrid) -> list[Picture]:
    """Draw a panel for every varied key: its values along x, measured up, a series for each setting of the others."""
    measured = [claim for claim in grid.claims.values() if claim["measured"] is not None]
    if not measured:
        return []
    y_range, shares = _vertical(grid)
    keys = list(grid.vary)
    groups = [keys[i : i + PANELS_SIDE_BY_SIDE] for i in range(0, len(keys), PANELS_SIDE_BY_SIDE)]
    return [
        Picture(
            f"{grid.claim}-{place}",
            _title(grid) + (f" ({place + 1} of {len(groups)})" if len(groups) > 1 else ""),
            _caption(grid),
            [_panel(grid, key, y_range, shares) for key in group],
            (),
            _notes(grid, group),
        )
        for place, group in enumerate(groups)
    ]


def _panel(grid: ClaimGrid, key: str, y_range: tuple[float, float] | None, shares: bool) -> Panel:
    values = grid.vary[key]
    numeric = len(values) > 1 and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )
    x = [float(value) for value in values] if numeric else [float(place) for place in range(len(values))]
    lines = [line for place, fixed in _drawn(grid, key) for line in _series(grid, key, fixed, place, x, numeric)]
    lines += _references(grid, [min(x), max(x)] if numeric else [-0.45, len(x) - 0.55])
    unit, title = ", ".join(grid.distinct("unit")), _along(grid, key)
    if not numeric:
        names = [value_words(value) for value in values]
        return Panel(title, key, unit, lines, fraction=shares, y_range=y_range, names=names)
    return Panel(
        title,
        key,
        unit,
        lines,
        x_log=min(x) > 0 and max(x) >= LOG_FROM * min(x),
        fraction=shares,
        ticks=sorted(x) if len(x) <= MAX_TICKS else (),
        x_name=short_keys(list(grid.vary))[key],
        y_range=y_range,
    )


def _along(grid: ClaimGrid, key: str) -> str:
    return f"along {short_keys(list(grid.vary))[key]}"


def _drawn(grid: ClaimGrid, key: str) -> list[tuple[int, Mapping[str, Any]]]:
    """Return the combinations of the other keys that are drawn, from all over the grid; those shown at first lead."""
    drawn = _spread(_measured(grid, key), MAX_SERIES)
    shown = _spread(drawn, SERIES_SHOWN)
    return list(enumerate([*shown, *(fixed for fixed in drawn if fixed not in shown)]))


def _spread(combinations: Sequence[Mapping[str, Any]], count: int) -> Sequence[Mapping[str, Any]]:
    """Return all, or `count` of them at even distances, the first and the last among them."""
    if len(combinations) <= count:
        return combinations
    return [combinations[round(i * (len(combinations) - 1) / (count - 1))] for i in range(count)]


def _measured(grid: ClaimGrid, key: str) -> list[Mapping[str, Any]]:
    """Return the combinations of the other keys at which something was measured along this one."""
    return [fixed for fixed in grid.others(key) if any(p.mean is not None for p in _points(grid, key, fixed))]


def _points(grid: ClaimGrid, key: str, fixed: Mapping[str, Any]) -> list[Estimate]:
    return [grid.estimate(grid.combination(key, value, fixed)) for value in grid.vary[key]]


def _series(
    grid: ClaimGrid, key: str, fixed: Mapping[str, Any], place: int, x: Sequence[float], numeric: bool
) -> list[Line]:
    """Return what was measured, and as crosses its nulls and as triangles its blind values if they differ by cell."""
    order = sorted(range(len(x)), key=lambda i: x[i])
    estimates = _points(grid, key, fixed)
    line = Line(
        f"{key}-{place}",
        settings_words(fixed, list(grid.vary)) or "measured",
        _along(grid, key) if fixed else "cells",
        _style(place),
        [x[i] for i in order],
        [estimates[i] for i in order],
        mode="line" if numeric else "dots",
        shown=place < SERIES_SHOWN,
    )
    marks = []
    for field in BESIDE:
        values = [grid.beside(field, grid.combination(key, grid.vary[key][i], fixed)) for i in order]
        if len(_known(grid, field)) > 1 and any(value is not None for value in values):
            marks.append(_marks(line, field, values, bool(fixed)))
    return [line, *marks]


def _style(place: int) -> Style:
    """Return a look for each of many series: colours first, then symbols and dashes with every round of colours."""
    turn = place // len(COLORS)
    return Style(COLORS[place % len(COLORS)], DASHES[turn % len(DASHES)], SYMBOLS[(place + turn) % len(SYMBOLS)])


def _marks(line: Line, field: str, values: Sequence[float | None], several: bool) -> Line:
    """Return the nulls or blind values of a series; among several series they share its legend entry and colour."""
    known = [(x, Estimate(value)) for x, value in zip(line.x, values, strict=True) if value is not None]
    return Line(
        line.key if several else field,
        f"{field}, {line.label}" if several else field,
        line.group if several else "null",
        Style(line.style.color if several else ORANGE, symbol=BESIDE[field]),
        [x for x, _ in known],
        [value for _, value in known],
        mode="dots",
        shown=line.shown,
        bars=False,
    )


def _known(grid: ClaimGrid, field: str) -> list[float]:
    return [value for value in grid.distinct(field) if value is not None]


def _references(grid: ClaimGrid, ends: Sequence[float]) -> list[Line]:
    """Return straight lines: null and blind value if they are the same in every cell, and the paper's value."""
    lines = []
    for field, dash in (("null", "dash"), ("blind", "longdash")):
        same = _known(grid, field)
        if len(same) == 1:
            style, label = Style(ORANGE, dash, width=1.5), f"{field} ({number(same[0])})"
            lines.append(reference_line(field, label, ends, Estimate(same[0]), style))
    for paper in _known(grid, "paper"):
        style = Style(GREY, "dot", width=1.5)
        lines.append(reference_line(f"paper-{paper}", f"paper ({number(paper)})", ends, Estimate(paper), style))
    return lines


def _vertical(grid: ClaimGrid) -> tuple[tuple[float, float] | None, bool]:
    """Return a range up, the same in every panel, and whether it is that of shares, 0 to 1.

    All means, nulls and values of the paper are inside; bars are cut where they would take more room than these.
    """
    claims = [claim for claim in grid.claims.values() if claim["measured"] is not None]
    means = [float(claim["measured"]) for claim in claims]
    levels = means + [
        claim[name] for claim in claims for name in ("null", "blind", "paper") if claim.get(name) is not None
    ]
    shares = grid.distinct("unit") == ["fraction"] and min(levels) >= 0 and SHARES_FROM <= max(levels) <= 1
    if shares:
        return None, True
    room = max(max(means) - min(means), (max(levels) - min(levels)) / 2) or 0.5 * abs(means[0]) or 1.0
    lows = [max(claim["low"], min(means) - room) for claim in claims if claim["low"] is not None]
    highs = [min(claim["high"], max(means) + room) for claim in claims if claim["high"] is not None]
    low, high = min(levels + lows), max(levels + highs)
    margin = 0.06 * (high - low) or room
    return (low - margin, high + margin), False


def _title(grid: ClaimGrid) -> str:
    """Name the lowest and the highest cell in one sentence."""
    known = {c: float(claim["measured"]) for c, claim in grid.claims.items() if claim["measured"] is not None}
    low, high = min(known, key=lambda c: known[c]), max(known, key=lambda c: known[c])
    if len(known) == 1:
        return f"{number(known[low])} in the only cell measured, {_where(grid, low)}"
    if math.isclose(known[low], known[high]):
        return f"{number(known[low])} in each of the {len(known)} cells measured"
    return f"From {number(known[low])} at {_where(grid, low)} to {number(known[high])} at {_where(grid, high)}"


def _where(grid: ClaimGrid, combination: Sequence[Any]) -> str:
    return settings_words(dict(zip(grid.vary, combination, strict=True)), list(grid.vary))


def _caption(grid: ClaimGrid) -> str:
    what = "; ".join(grid.distinct("definition"))
    parts = [f"Up: {what} ({', '.join(grid.distinct('unit'))}), mean over seeds."]
    parts += (
        ["Across: the values of a varied key; one series for each setting of the others."] if len(grid.vary) > 1 else []
    )
    parts.append(
        "Bars: 95 % interval over seeds (Student t), cut at the edge where they are long; fewer than three seeds have "
        "none."
    )
    nulls = _known(grid, "null")
    if len(nulls) > 1:
        parts.append("Crosses: the null of the same cell, what the measurement gives if there is nothing to find.")
    elif nulls:
        parts.append("Dashed: the null, what the measurement gives if there is nothing to find.")
    else:
        parts.append("The null is not a single number here.")
    if _known(grid, "blind"):
        drawn = "Triangles" if len(_known(grid, "blind")) > 1 else "Long dashes"
        parts.append(f"{drawn}: what the same optimizer gives on gradients that know nothing.")
    if any(paper is not None for paper in grid.distinct("paper")):
        parts.append("Dotted: the paper's value; its model and data differ.")
    return " ".join(parts)


def _notes(grid: ClaimGrid, keys: Sequence[str]) -> list[str]:
    """Say what is not drawn because there is too much of it."""
    notes = []
    for key in keys:
        more = len(_measured(grid, key)) - MAX_SERIES
        if more > 0:
            notes.append(
                f"Along {key}, {more} more series are not drawn; every cell is in claims.parquet and sweep.json."
            )
    return notes
