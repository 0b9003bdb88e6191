"""Pictures and tables of a sweep: a claim's figure along every varied key, and what each value changes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lineament.report import words
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
    Table,
    reference_line,
)
from lineament.report.sweep.claim_grid import ClaimGrid, settings_words, short_keys
from lineament.settings.words import value_words

# Combinations of the other keys: so many are drawn at first, so many more wait in the legend.
SERIES_SHOWN, SERIES_MOST = 6, 24
PANELS_SIDE_BY_SIDE = 3
MOST_TICKS = 12
# Values that span at least this factor stand on a logarithmic axis.
LOG_FROM = 10
# Shares that all lie below this are drawn on an axis of their own: from 0 to 1 they could not be told apart.
SHARES_FROM = 0.25
DIFFERENCES_MOST = 40
COLORS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, BLACK)
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "star")
DASHES = ("solid", "dash", "dot", "dashdot")


def claim_pictures(grid: ClaimGrid) -> list[Picture]:
    """One panel for every varied key: its values along x, measured up, a series for each setting of the others."""
    measured = [claim for claim in grid.found.values() if claim["measured"] is not None]
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


def difference_tables(grid: ClaimGrid, differences: Sequence[Mapping[str, Any]]) -> list[Table]:
    """For each key: its other values minus its first one, paired by seed, all other keys held fixed."""
    own = [d for d in differences if d["claim"] == grid.claim and d["task"] == grid.task]
    found = {key: [d for d in own if d["key"] == key] for key in grid.vary}
    tables = [_difference_table(grid, key, rows) for key, rows in found.items() if rows]
    note = (
        "Differences of the same seed in two cells that differ in this key alone, over the seeds that both have. "
        "Null: 0, no difference."
    )
    intervals = sum(d["low"] is not None for d in own)
    if intervals > 1:
        note += f" Each of the {intervals} intervals stands alone: about one in twenty misses its true value by chance."
    return [*tables[:-1], *(replace(table, note=f"{table.note} {note}".strip()) for table in tables[-1:])]


def _difference_table(grid: ClaimGrid, key: str, found: Sequence[Mapping[str, Any]]) -> Table:
    short, others = short_keys(list(grid.vary)), [name for name in grid.vary if name != key]
    columns = (short[key], *(short[name] for name in others), "mean", "95 % interval over seeds", "seeds")
    rows = [
        (
            f"{value_words(d['other'])} minus {value_words(d['first'])}",
            *(value_words(d["fixed"][name]) for name in others),
            number(d["mean"]),
            Estimate(d["mean"], d["low"], d["high"], d["n_seeds"]).interval_text,
            str(d["n_seeds"]),
        )
        for d in found[:DIFFERENCES_MOST]
    ]
    more = len(found) - len(rows)
    note = f"{more} more are in sweep.json." if more else ""
    return Table(f"What {key} changes ({found[0]['unit']}, paired by seed)", columns, rows, note)


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
        ticks=sorted(x) if len(x) <= MOST_TICKS else (),
        x_name=short_keys(list(grid.vary))[key],
        y_range=y_range,
    )


def _along(grid: ClaimGrid, key: str) -> str:
    return f"along {short_keys(list(grid.vary))[key]}"


def _drawn(grid: ClaimGrid, key: str) -> list[tuple[int, Mapping[str, Any]]]:
    """Combinations of the other keys, as many as are drawn, from all over the grid; those shown at first come first."""
    drawn = _spread(_measured(grid, key), SERIES_MOST)
    shown = _spread(drawn, SERIES_SHOWN)
    return list(enumerate([*shown, *(fixed for fixed in drawn if fixed not in shown)]))


def _spread(found: Sequence[Mapping[str, Any]], most: int) -> Sequence[Mapping[str, Any]]:
    """All, or `most` of them at even distances, the first and the last among them."""
    if len(found) <= most:
        return found
    return [found[round(i * (len(found) - 1) / (most - 1))] for i in range(most)]


def _measured(grid: ClaimGrid, key: str) -> list[Mapping[str, Any]]:
    """Combinations of the other keys that have a figure somewhere along this one."""
    return [fixed for fixed in grid.others(key) if any(p.mean is not None for p in _points(grid, key, fixed))]


def _points(grid: ClaimGrid, key: str, fixed: Mapping[str, Any]) -> list[Estimate]:
    return [grid.estimate(grid.combination(key, value, fixed)) for value in grid.vary[key]]


def _series(
    grid: ClaimGrid, key: str, fixed: Mapping[str, Any], place: int, x: Sequence[float], numeric: bool
) -> list[Line]:
    """Measured, and its nulls as crosses where they differ between cells."""
    label = settings_words(fixed, list(grid.vary)) or "measured"
    group = _along(grid, key) if fixed else "cells"
    order = sorted(range(len(x)), key=lambda i: x[i])
    found = _points(grid, key, fixed)
    at, points = [x[i] for i in order], [found[i] for i in order]
    color, symbol = COLORS[place % len(COLORS)], SYMBOLS[(place + place // len(COLORS)) % len(SYMBOLS)]
    style = Style(color, DASHES[place // len(COLORS) % len(DASHES)], symbol)
    identity, shown = f"{key}-{place}", place < SERIES_SHOWN
    line = Line(identity, label, group, style, at, points, mode="line" if numeric else "dots", shown=shown)
    nulls = [grid.null(grid.combination(key, grid.vary[key][i], fixed)) for i in order]
    if len(_nulls(grid)) < 2 or all(null is None for null in nulls):
        return [line]
    crosses = [(spot, Estimate(null)) for spot, null in zip(at, nulls, strict=True) if null is not None]
    return [
        line,
        Line(
            identity if fixed else "null",
            f"null, {label}" if fixed else "null",
            group if fixed else "null",
            Style(color if fixed else ORANGE, symbol="x"),
            [spot for spot, _ in crosses],
            [value for _, value in crosses],
            mode="dots",
            shown=shown,
            bars=False,
        ),
    ]


def _nulls(grid: ClaimGrid) -> list[float]:
    return [null for null in grid.distinct("null") if null is not None]


def _references(grid: ClaimGrid, ends: Sequence[float]) -> list[Line]:
    """Straight lines: the null where it is the same in every cell, and the paper's figure."""
    nulls, papers = _nulls(grid), [paper for paper in grid.distinct("paper") if paper is not None]
    lines = []
    if len(nulls) == 1:
        style = Style(ORANGE, "dash", width=1.5)
        lines.append(reference_line("null", f"null ({number(nulls[0])})", ends, Estimate(nulls[0]), style))
    for paper in papers:
        style = Style(GREY, "dot", width=1.5)
        lines.append(reference_line(f"paper-{paper}", f"paper ({number(paper)})", ends, Estimate(paper), style))
    return lines


def _vertical(grid: ClaimGrid) -> tuple[tuple[float, float] | None, bool]:
    """Range up, the same in every panel, and whether it is that of shares, 0 to 1.

    All means, nulls and figures of the paper are inside; bars are cut where they would take more room than these.
    """
    claims = [claim for claim in grid.found.values() if claim["measured"] is not None]
    means = [float(claim["measured"]) for claim in claims]
    levels = means + [claim[name] for claim in claims for name in ("null", "paper") if claim[name] is not None]
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
    """The lowest and the highest cell in one sentence."""
    known = {c: float(claim["measured"]) for c, claim in grid.found.items() if claim["measured"] is not None}
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
    parts.append("Bars: 95 % interval over seeds (Student t), cut at the edge where they are long; one seed has none.")
    nulls = _nulls(grid)
    if len(nulls) > 1:
        parts.append("Crosses: the null of the same cell, what the measurement gives where there is nothing to find.")
    elif nulls:
        parts.append("Dashed: the null, what the measurement gives where there is nothing to find.")
    else:
        parts.append("The null is no single number here.")
    if any(paper is not None for paper in grid.distinct("paper")):
        parts.append("Dotted: the paper's figure; its model and data differ.")
    return " ".join(parts)


def _notes(grid: ClaimGrid, keys: Sequence[str]) -> list[str]:
    """What is not drawn because there is too much of it."""
    notes = []
    for key in keys:
        more = len(_measured(grid, key)) - SERIES_MOST
        if more > 0:
            notes.append(
                f"Along {key}, {more} more series are not drawn; every cell is in claims.parquet and sweep.json."
            )
    return notes


def claim_title(grid: ClaimGrid) -> str:
    """The claim as a sentence."""
    known = words.CLAIMS.get(grid.claim)
    return known.title if known else grid.claim.replace("_", " ")
