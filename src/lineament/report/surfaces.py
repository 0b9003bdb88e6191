"""Surfaces as plotly traces: measured values filled in, with lines of equal predicted value over them."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from lineament.report.estimates import number
from lineament.report.series import VERMILLION, Surface

COLORS = [[0.0, "#f2f7fb"], [0.5, "#9ecae1"], [1.0, "#3182bd"]]
N_LEVELS = 12
# Levels of the measured values are between these percentiles: at large scales losses may be those of a broken model.
ENDS = (0, 95)


def surface_traces(surface: Surface, suffix: str) -> list[Any]:
    """Return the filled measured values, the lines of the predicted ones at the same levels, and the mark."""
    axes = {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}", "x": list(surface.x), "y": list(surface.y)}
    measured, predicted = (_rows(surface, kind) for kind in ("measured", "predicted"))
    levels = _levels(measured)
    filled = go.Contour(
        **axes,
        z=measured,
        name="measured",
        legendgroup="measured",
        colorscale=COLORS,
        contours=levels,
        showscale=False,
        line={"width": 0.5, "color": "#ffffff"},
        text=[[_hover(surface, x, y) for x in surface.x] for y in surface.y],
        hovertemplate="%{text}<extra></extra>",
        zmin=levels["start"],
        zmax=levels["end"],
    )
    lines = go.Contour(
        **axes,
        z=predicted,
        name="predicted",
        legendgroup="predicted",
        contours={**levels, "coloring": "none", "showlabels": True, "labelfont": {"size": 10, "color": VERMILLION}},
        line={"width": 1.5, "color": VERMILLION, "dash": "dash"},
        showscale=False,
        hoverinfo="skip",
    )
    x, y, name = surface.mark
    star = {"symbol": "star", "size": 13, "color": "#ffffff", "line": {"color": "#111111", "width": 1.5}}
    places = {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}", "legendgroup": "mark", "name": name}
    mark = go.Scatter(
        **places, x=[x], y=[y], mode="markers", marker=star, cliponaxis=False, hovertemplate=f"{name}<extra></extra>"
    )
    return [filled, lines, mark]


def surface_axes(surface: Surface, suffix: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return both axes."""
    shared: dict[str, Any] = {"zeroline": False, "showgrid": False, "constrain": "domain"}
    x = {**shared, "title": {"text": surface.x_title}, "tickvals": list(surface.x)}
    y = {**shared, "title": {"text": surface.y_title}, "tickvals": list(surface.y)}
    for axis, places in ((x, surface.x), (y, surface.y)):
        axis["ticktext"] = [number(place) for place in places]
    return x, y


def _rows(surface: Surface, kind: str) -> list[list[float | None]]:
    values = surface.measured if kind == "measured" else surface.predicted
    return [[values[x, y].mean for x in surface.x] for y in surface.y]


def _levels(rows: list[list[float | None]]) -> dict[str, float]:
    known = np.array([value for row in rows for value in row if value is not None] or [0.0])
    low, high = (float(end) for end in np.percentile(known, ENDS))
    step = (high - low) / N_LEVELS or 1.0
    return {"start": low, "end": max(high, low + step), "size": step}


def _hover(surface: Surface, x: float, y: float) -> str:
    where = f"{surface.x_title} {number(x)}, {surface.y_title} {number(y)}"
    measured, predicted = (values[x, y].text for values in (surface.measured, surface.predicted))
    return f"<b>{surface.title}</b><br>{where}<br>measured {measured}<br>predicted {predicted}"
