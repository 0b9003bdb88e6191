"""Matrices of pairs as plotly traces: square cells with a number in each, darker where it matters more."""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go

from lineament.report.series import Matrix

COLORS = [[0.0, "#e8f1f8"], [0.5, "#6baed6"], [1.0, "#08306b"]]


def matrix_trace(matrix: Matrix, suffix: str) -> go.Heatmap:
    """Return the cells of a matrix, both halves of it, with a short number in each."""
    places = range(len(matrix.names))
    pairs = [[(min(i, j), max(i, j)) for j in places] for i in places]
    known = {place: cell for place, cell in matrix.cells.items() if cell.mean is not None}
    return go.Heatmap(
        z=[[matrix.shades.get(pair) if pair in known else None for pair in row] for row in pairs],
        text=[[cell_text(known[pair].mean) if pair in known else "" for pair in row] for row in pairs],
        customdata=[[_hover(matrix, pair) for pair in row] for row in pairs],
        texttemplate="%{text}",
        hovertemplate="%{customdata}<extra></extra>",
        zmin=0,
        zmax=1,
        colorscale=COLORS,
        showscale=False,
        xgap=2,
        ygap=2,
        xaxis=f"x{suffix}",
        yaxis=f"y{suffix}",
    )


def matrix_axes(matrix: Matrix, suffix: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return both axes: numbers across, numbers and names down, cells square."""
    count = len(matrix.names)
    numbers = [str(place + 1) for place in range(count)]
    names = [f"{place} {_short(name)}" for place, name in zip(numbers, matrix.names, strict=True)]
    shared: dict[str, Any] = {"tickvals": list(range(count)), "zeroline": False, "constrain": "domain"}
    shared |= {"showgrid": False, "ticks": ""}
    x = {**shared, "ticktext": numbers, "range": [-0.5, count - 0.5], "side": "bottom", "constraintoward": "left"}
    y = {**shared, "ticktext": names, "range": [count - 0.5, -0.5], "scaleanchor": f"x{suffix}"}
    return x, {**y, "constraintoward": "top"}


def cell_text(value: float | None) -> str:
    """Write a number in at most four characters and a sign."""
    if value is None or not math.isfinite(value):
        return ""
    size = abs(value)
    if size != 0 and (size < 0.0095 or size >= 9950):
        digits, power = f"{value:.0e}".split("e")
        return f"{digits}e{int(power)}"
    if size < 0.995:
        return f"{value:.2g}".replace("0.", ".", 1)
    return f"{value:.0f}" if size >= 9.95 else f"{value:.2g}"


def _short(name: str, longest: int = 8) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def _hover(matrix: Matrix, pair: tuple[int, int]) -> str:
    first, second = (matrix.names[place] for place in pair)
    cell = matrix.cells.get(pair)
    what = f"{first}, two batches" if first == second else f"{first}, {second}"
    return f"<b>{what}</b><br>{matrix.title}: {cell.text if cell else 'not measured'}"
