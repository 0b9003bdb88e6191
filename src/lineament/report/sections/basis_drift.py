"""How long directions last: overlap of gradient planes by lag and by loss, with half-lives."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from lineament.records import Quantity, Record
from lineament.report.estimates import Estimate, estimate, label_integers, label_numbers, label_values, number, select
from lineament.report.sections.section import Section, each
from lineament.report.series import BLUE, GREY, VERMILLION, Line, Panel, Picture, Style, reference_line

# How a record says that the overlap never falls to half; the number is the largest lag.
NOT_CROSSED = re.compile(r"> ([\d.]+) \(largest lag")
Side = Literal["broken", "recovered"]
SIDES: dict[Side, tuple[str, str]] = {
    "broken": ("damaged point", VERMILLION),
    "recovered": ("recovered point", BLUE),
}
DRIFT_CAPTION = (
    "Overlap of the plane of fresh task gradients with the plane some steps later: 1 is the same "
    "plane. The ceiling is what two halves of one sample reach, so it means 'no drift'; the floor is "
    "two random planes. Lags that not every seed has are left out. The upright line marks the "
    "half-life: the lag at which half is left."
)
LOSS_CAPTION = (
    "One line per seed, one dot per lag. If the plane turned with the count of steps alone, the dots "
    "would not be ordered by the loss. Rescaled: (overlap - floor) / (ceiling - floor), so noise can "
    "put it above 1."
)


def drift_picture(sources: Sequence[Record]) -> Picture | None:
    """Overlap of gradient planes against lag, between floor and ceiling, with half-lives."""
    lags = label_numbers(sources, "overlap", "lag")
    if not lags:
        return None
    panels = [_lag_panel(sources, side) for side in SIDES]
    notes = [*(half_life_text(sources, side) for side in SIDES), *window_texts(sources)]
    title = "How long the plane of gradients stays the same"
    return Picture("drift", title, DRIFT_CAPTION, panels, sources, notes)


def drift_loss_picture(sources: Sequence[Record]) -> Picture | None:
    """Rescaled overlap against the evaluation loss at the later of the two steps, seed by seed."""
    lines = [line for side in SIDES for record in sources if (line := _loss_line(record, side)) is not None]
    if not lines:
        return None
    x_title, y_title = (
        "evaluation loss at the later step (nats per target token)",
        "rescaled overlap (fraction)",
    )
    title = "Rescaled overlap: 1 = no drift, 0 = unrelated"
    panel = Panel(title, x_title, y_title, lines, x_log=True, fraction=False, x_name="loss")
    message = "Does the plane turn because the loss falls?"
    return Picture("drift-loss", message, LOSS_CAPTION, [panel], sources, [_rates_text(sources)])


def half_life_text(records: Sequence[Record], side: Side) -> str:
    """The half-life with its interval, or the reason why there is none."""
    where, figures = SIDES[side][0], select(records, "half_life", **{"from": side})
    figures = figures or [f for r in records for f in r.select("half_life") if "from" not in f.labels]
    found = estimate([f for f in figures if f.value is not None], fraction=False)
    without = [f for f in figures if f.value is None]
    why = _without_half_life(without, len(figures))
    if found.mean is None:
        return f"Half-life from the {where}: {why or 'not measured'}."
    return f"Half-life in steps, from the {where}: {found.text}{f' (without: {why})' if why else ''}."


def window_texts(sources: Sequence[Record]) -> list[str]:
    """Overlap of planes of successive updates, at the shortest and the longest lag that all seeds have."""
    figures = select(sources, "window_overlap")
    if not figures:
        return []
    lags = label_integers(sources, "window_overlap", "lag")
    found = {lag: select(sources, "window_overlap", lag=lag) for lag in lags}
    common = [lag for lag in lags if len(found[lag]) == max(len(f) for f in found.values())]
    ends = dict.fromkeys((common[0], common[-1]))
    values = [f"{estimate(found[lag], fraction=True).text} at lag {lag}" for lag in ends]
    width = int(figures[0].labels["width"])
    chance = number(width / sources[0].n_params)
    return [
        f"Planes of {width} successive updates, at lags at which they share neither updates nor momentum: overlap "
        f"{', '.join(values)} (two random planes: {chance})."
    ]


def _without_half_life(figures: Sequence[Quantity], n_seeds: int) -> str:
    """Why seeds have no half-life: one clause for those that do not cross, one for each other reason."""
    lags = sorted(float(found[1]) for f in figures if (found := NOT_CROSSED.match(f.reason or "")))
    clauses = []
    if lags:
        which = f"any of {n_seeds}" if len(lags) == n_seeds > 1 else f"{len(lags)} of {n_seeds}"
        named = f"largest lag{'s' if len(lags) > 1 else ''} {', '.join(number(lag) for lag in lags)}"
        clauses.append(f"does not cross within the run in {which} seed{'s' if n_seeds > 1 else ''} ({named})")
    others = [f.reason or "undefined" for f in figures if not NOT_CROSSED.match(f.reason or "")]
    clauses += [f"{others.count(why)} of {n_seeds} seeds: {why}" for why in dict.fromkeys(others)]
    return "; ".join(clauses)


def _lag_panel(sources: Sequence[Record], side: Side) -> Panel:
    where, color = SIDES[side]
    lags = [lag for lag in label_values(sources, "overlap", "lag") if isinstance(lag, int | float)]
    counts = {lag: len(select(sources, "overlap", lag=lag, **{"from": side})) for lag in lags}
    full = [lag for lag in lags if counts[lag] and counts[lag] == max(counts.values())]
    lines = [
        _lag_line(sources, side, full, "ceiling", "ceiling: two halves of one sample", Style(GREY, "dash", "square")),
        _lag_line(sources, side, full, "overlap", f"overlap, from the {where}", Style(color, width=3)),
    ]
    floor = estimate(select(sources, "floor"), fraction=True)
    if floor.mean is not None and full:
        ends = [full[0], full[-1]]
        lines.append(reference_line("floor", "floor: two random planes", ends, floor, Style(GREY, "dot")))
    lines += _half_life_line(sources, side, color)
    title, x_title = f"from the {where}", "lag (steps)"
    return Panel(title, x_title, "overlap (fraction)", lines, x_log=True, ticks=full, x_name="lag")


def _lag_line(
    sources: Sequence[Record], side: Side, lags: Sequence[float], quantity: str, label: str, style: Style
) -> Line:
    points = [estimate(select(sources, quantity, lag=lag, **{"from": side}), fraction=True) for lag in lags]
    key = quantity if quantity == "ceiling" else f"{quantity}-{side}"
    return Line(key, label, "drift", style, list(lags), points)


def _half_life_line(sources: Sequence[Record], side: Side, color: str) -> list[Line]:
    found = estimate(select(sources, "half_life", **{"from": side}), fraction=False)
    if found.mean is None:
        return []
    ends = [Estimate(0.0), Estimate(1.0)]
    x, style = [found.mean, found.mean], Style(color, "dashdot", width=1.2)
    label = f"half-life, from the {SIDES[side][0]}: {number(found.mean)} steps"
    return [Line(f"half-life-{side}", label, "reference", style, x, ends, mode="plain", tabled=0)]


def _loss_line(record: Record, side: Side) -> Line | None:
    figures = [f for f in record.select("rescaled_overlap", **{"from": side}) if "loss" in f.labels]
    figures.sort(key=lambda figure: float(figure.labels["loss"]))
    if not figures:
        return None
    where, color = SIDES[side]
    style = Style(color, "solid" if side == "broken" else "dash", "circle" if side == "broken" else "square", 1.2)
    points = [_single(figure) for figure in figures]
    x = [float(figure.labels["loss"]) for figure in figures]
    return Line(f"loss-{side}", f"from the {where}", "drift", style, x, points)


def _single(figure: Quantity) -> Estimate:
    reason = figure.reason or f"lag {figure.labels['lag']}"
    return Estimate(figure.value, n_seeds=1, reason=reason)


def _rates_text(sources: Sequence[Record]) -> str:
    before, after = (estimate(select(sources, "drift_rate", phase=p), fraction=False) for p in ("before", "after"))
    return (
        f"Drift per step before 90 % of the loss is recovered: {before.text}; after: {after.text} "
        "(share of the plane lost per step)."
    )


SECTION = Section(
    "basis_drift",
    "How long directions last",
    "drift of the plane of gradients",
    pictures=each(drift_picture, drift_loss_picture),
    nulls={
        "overlap": "floor (two random planes) and another task's plane",
        "rescaled_overlap": "another task's plane at the same point",
    },
)
