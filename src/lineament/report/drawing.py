"""Panels to plotly figures, for notebooks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from lineament.report.estimates import Estimate, number
from lineament.report.matrices import matrix_axes, matrix_trace
from lineament.report.series import Line, Matrix, Panel, Picture, Surface
from lineament.report.surfaces import surface_axes, surface_traces

PANEL_HEIGHT, SMALL_HEIGHT = 380, 260
ROW_HEIGHT = 44
# Lines with error bars are moved sideways by this much each, so that their bars can be told apart: decades on a log
# axis, a part of the axis on a linear one, and a part of the way to the next name where positions have names.
DODGE_DECADES, DODGE_SPAN, DODGE_NAMED = 0.025, 0.012, 0.09


def draw(picture: Picture) -> go.Figure:
    """Return a plotly figure of all panels, as many side by side as the picture says; the page arranges them anew on
    narrow screens."""
    figure = go.Figure()
    count = len(picture.panels)
    per_row = picture.per_row or count
    n_rows = -(-count // per_row)
    for index, panel in enumerate(picture.panels):
        suffix = "" if index == 0 else str(index + 1)
        if isinstance(panel, Matrix):
            figure.add_trace(matrix_trace(panel, suffix))
            x, y = matrix_axes(panel, suffix)
        elif isinstance(panel, Surface):
            figure.add_traces(surface_traces(panel, suffix))
            x, y = surface_axes(panel, suffix)
        else:
            for line, places in zip(panel.lines, _places(panel), strict=True):
                figure.add_traces(_traces(panel, line, index, places))
            x, y = _axes(panel)
        across, up = _domains(index, per_row, n_rows)
        x |= {"domain": across, "anchor": f"y{suffix}", "automargin": True}
        y |= {"domain": up, "anchor": f"x{suffix}", "automargin": True}
        figure.update_layout({f"xaxis{suffix}": x, f"yaxis{suffix}": y})
        if panel.title and not (isinstance(panel, Panel) and panel.rows):
            figure.add_annotation(_panel_title(panel.title, suffix))
    margin = {"l": 62, "r": 14, "t": 36, "b": 60}
    height = max(map(_height, picture.panels)) if n_rows == 1 else n_rows * SMALL_HEIGHT
    meta = {"panels": count, "height": height, "perRow": per_row, "narrow": 1 if n_rows == 1 else 2}
    figure.update_layout(template="none", showlegend=False, height=height, margin=margin, meta=meta)
    figure.update_layout(hovermode="closest", paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)")
    return figure


def _height(panel: Panel | Matrix | Surface) -> int:
    return max(PANEL_HEIGHT, 110 + ROW_HEIGHT * len(panel.rows)) if isinstance(panel, Panel) else PANEL_HEIGHT


def _domains(index: int, per_row: int, n_rows: int) -> tuple[list[float], list[float]]:
    """Return where a panel stands across and up, as shares of the figure."""
    gap, between = 0.11 if n_rows == 1 else 0.07, 0.32 / n_rows
    width, height = (1 - gap * (per_row - 1)) / per_row, (1 - between * (n_rows - 1)) / n_rows
    row, column = divmod(index, per_row)
    left, top = column * (width + gap), 1 - row * (height + between)
    return [left, left + width], [max(0.0, top - height), top]


def _places(panel: Panel) -> list[list[float]]:
    """Return where the points of each line are drawn along x: moved a little if lines have bars at one place."""
    barred = [line for line in panel.lines if line.shown and line.bars and (line.mode == "line" or panel.names)]
    keys = dict.fromkeys(line.key for line in barred if line.mode in ("line", "dots"))
    middle = (len(keys) - 1) / 2
    moves = {key: i - middle for i, key in enumerate(keys)}
    return [[_moved(panel, float(x), moves.get(line.key, 0.0)) for x in line.x] for line in panel.lines]


def _moved(panel: Panel, x: float, by: float) -> float:
    if panel.names:
        return x + DODGE_NAMED * by
    if not panel.ticks:
        return x
    return x * 10 ** (DODGE_DECADES * by) if panel.x_log else x + DODGE_SPAN * (panel.ticks[-1] - panel.ticks[0]) * by


def _traces(panel: Panel, line: Line, index: int, places: list[float]) -> list[go.Scatter]:
    traces = [_main_trace(panel, line, index, places)]
    if line.mode == "band" and all(point.low is not None for point in line.points):
        traces.insert(0, _band(line, index))
    return traces


def _main_trace(panel: Panel, line: Line, index: int, places: list[float]) -> go.Scatter:
    style, values = line.style, [point.mean for point in line.points]
    x, y = (values, places) if panel.rows else (places, values)
    symbol = style.symbol + ("-open" if style.open else "")
    mode = {"dots": "markers", "line": "lines+markers"}.get(line.mode, "lines")
    trace = go.Scatter(
        **_common(line, index),
        x=x,
        y=y,
        mode=mode,
        line={"color": style.color, "dash": style.dash, "width": style.width},
        marker={"color": style.color, "symbol": symbol, "size": 9 if line.mode == "dots" else 7},
        text=[_hover(panel, line, x, point) for x, point in zip(line.x, line.points, strict=True)],
        hovertemplate="%{text}<extra></extra>",
    )
    if line.bars and line.mode in ("dots", "line"):
        trace.update({"error_x" if panel.rows else "error_y": _error_bars(line)})
    return trace


def _band(line: Line, index: int) -> go.Scatter:
    up = [point.high for point in line.points]
    down = [point.low for point in reversed(line.points)]
    x = [*line.x, *reversed(line.x)]
    red, green, blue = (int(line.style.color[i : i + 2], 16) for i in (1, 3, 5))
    fill = f"rgba({red},{green},{blue},0.18)"
    edge = {"width": 0}
    return go.Scatter(
        **_common(line, index),
        x=x,
        y=up + down,
        fill="toself",
        fillcolor=fill,
        line=edge,
        mode="lines",
        hoverinfo="skip",
    )


def _common(line: Line, index: int) -> dict[str, Any]:
    suffix = "" if index == 0 else str(index + 1)
    return {
        "name": line.label,
        "legendgroup": line.key,
        "visible": line.shown or "legendonly",
        "xaxis": f"x{suffix}",
        "yaxis": f"y{suffix}",
    }


def _error_bars(line: Line) -> dict[str, Any]:
    def arm(point: Estimate, end: float | None) -> float:
        return 0.0 if end is None or point.mean is None else abs(end - point.mean)

    up = [arm(p, p.high) if (p.high or 0) >= (p.mean or 0) else 0.0 for p in line.points]
    down = [arm(p, p.low) if (p.low or 0) <= (p.mean or 0) else 0.0 for p in line.points]
    look = {"color": line.style.color, "thickness": 1.2, "width": 3}
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, **look}


def _hover(panel: Panel, line: Line, x: float, point: Estimate) -> str:
    if line.group == "reference" and line.tabled <= 1:
        return f"<b>{line.label}</b>"
    seeds = f"<br>{point.n_seeds} seeds" if point.n_seeds > 1 else ""
    remark = f"<br>{point.reason}" if point.reason and point.mean is not None else ""
    return f"<b>{line.label}</b><br>{panel.position(x)}: {point.hover}{seeds}{remark}"


def _axes(panel: Panel) -> tuple[dict[str, Any], dict[str, Any]]:
    x: dict[str, Any] = {"title": {"text": panel.x_title}, "type": "log" if panel.x_log else "linear"}
    y: dict[str, Any] = {"title": {"text": panel.y_title}, "type": "log" if panel.y_log else "linear"}
    x["zeroline"] = y["zeroline"] = False
    means = [p.mean for line in panel.lines for p in line.points if p.mean is not None]
    if panel.names:
        x |= {"tickvals": list(range(len(panel.names))), "ticktext": list(panel.names)}
        x |= {"range": [-0.5, len(panel.names) - 0.5]}
    elif panel.ticks:
        x |= {"tickvals": list(panel.ticks), "ticktext": [number(tick) for tick in panel.ticks]}
    elif panel.x_log:
        x |= _log_ticks(means if panel.rows else [value for line in panel.lines for value in line.x])
    if panel.y_log:
        y |= _log_ticks(means)
    if panel.y_range:
        y |= {"range": list(panel.y_range)}
    if panel.rows:
        y |= _row_ticks(panel.rows)
    if panel.fraction:
        (x if panel.rows else y).update(range=[-0.03, 1.05], tickformat=".1f", dtick=0.2)
    return x, y


def _log_ticks(values: Sequence[float]) -> dict[str, Any]:
    """Return ticks at 1, 2, 5 of each decade, or at whole decades if there are many."""
    inside = [value for value in values if value > 0]
    if not inside:
        return {}
    low, high = math.log10(min(inside)), math.log10(max(inside))
    steps = (1, 2, 5) if high - low < 2.5 else (1,)
    every = [step * 10.0**decade for decade in range(math.floor(low), math.ceil(high) + 1) for step in steps]
    kept = [tick for tick in every if low - 0.1 <= math.log10(tick) <= high + 0.1]
    return {"tickvals": kept, "ticktext": [number(tick) for tick in kept]}


def _row_ticks(rows: Sequence[str]) -> dict[str, Any]:
    places = list(range(len(rows)))
    return {
        "tickvals": places,
        "ticktext": list(rows),
        "range": [len(rows) - 0.4, -0.6],
        "title": {"text": ""},
    }


def _panel_title(title: str, suffix: str) -> dict[str, Any]:
    place = {"xref": f"x{suffix} domain", "yref": f"y{suffix} domain", "x": 0, "y": 1}
    text = f"<b>{title}</b>"
    return {**place, "text": text, "showarrow": False, "xanchor": "left", "yanchor": "bottom", "yshift": 6}
