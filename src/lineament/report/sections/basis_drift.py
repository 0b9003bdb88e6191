"""How long directions last: overlap of gradient planes by lag and by loss, with half-lives."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lineament.records import Quantity, Record
from lineament.report.estimates import (
    Estimate,
    estimate,
    estimate_positive,
    label_integers,
    label_numbers,
    number,
    select,
)
from lineament.report.sections.retention import retention_picture
from lineament.report.sections.section import Section, each
from lineament.report.series import BLUE, GREY, VERMILLION, Line, Panel, Picture, Style, reference_line
from lineament.study.points import DAMAGED, RECOVERED

# How a record says that the overlap never falls to half; the number is the largest lag.
NOT_CROSSED = re.compile(r"> ([\d.]+) \(largest lag")
# Where lags are counted from: its name and the colour of its lines.
SIDES = {DAMAGED: ("damaged point", VERMILLION), RECOVERED: ("recovered point", BLUE)}
DRIFT_CAPTION = (
    "Overlap of the plane of fresh task gradients with the plane some steps later: 1 is the same plane. The ceiling "
    "is what two halves of one sample reach, so it means 'no drift'; the floor is two random planes. Lags that some "
    "seeds lack are left out. The upright line marks the half-life: the lag at which half of the overlap between "
    "floor and ceiling is left."
)
LOSS_CAPTION = (
    "One line per seed, one dot per lag. If the plane turned with the number of steps alone, the dots would not be "
    "ordered by the loss. Rescaled: (overlap - floor) / (ceiling - floor), so noise can put it above 1."
)


def drift_picture(sources: Sequence[Record]) -> Picture | None:
    """Draw the overlap of gradient planes against lag, between floor and ceiling, with half-lives."""
    if not label_numbers(sources, "overlap", "lag"):
        return None
    panels = [_lag_panel(sources, side) for side in SIDES]
    notes = [*(half_life_text(sources, side) for side in SIDES), *window_texts(sources)]
    return Picture("drift", "How long the plane of gradients stays the same", DRIFT_CAPTION, panels, sources, notes)


def drift_loss_picture(sources: Sequence[Record]) -> Picture | None:
    """Draw the rescaled overlap against the evaluation loss at the later of the two steps, seed by seed."""
    lines = [line for side in SIDES for record in sources if (line := _loss_line(record, side)) is not None]
    if not lines:
        return None
    x_title, y_title = "evaluation loss at the later step (nats per target token)", "rescaled overlap (fraction)"
    title = "Rescaled overlap: 1 = no drift, 0 = unrelated"
    panel = Panel(title, x_title, y_title, lines, x_log=True, fraction=False, x_name="loss")
    message = "Does the plane turn because the loss falls?"
    return Picture("drift-loss", message, LOSS_CAPTION, [panel], sources, [_rates_text(sources)])


def half_life_text(records: Sequence[Record], side: str) -> str:
    """Return a sentence with the half-life and its interval, or with the reason why there is none."""
    where, lives = SIDES[side][0], select(records, "half_life", **{"from": side})
    # A seed that did not recover has one half-life without a value, on neither side.
    lives = lives or [life for life in select(records, "half_life") if "from" not in life.labels]
    crossed = estimate_positive([life for life in lives if life.value is not None])
    why = _without_half_life([life for life in lives if life.value is None], len(lives))
    if crossed.mean is None:
        return f"Half-life from the {where}: {why or 'not measured'}."
    return f"Half-life in steps, from the {where}: {crossed.text}{f' (without: {why})' if why else ''}."


def window_texts(sources: Sequence[Record]) -> list[str]:
    """Return the overlap of planes of successive updates, at the shortest and the longest lag that all seeds have."""
    overlaps = {
        lag: select(sources, "window_overlap", lag=lag) for lag in label_integers(sources, "window_overlap", "lag")
    }
    if not overlaps:
        return []
    n_seeds = max(map(len, overlaps.values()))
    common = [lag for lag, quantities in overlaps.items() if len(quantities) == n_seeds]
    values = [
        f"{estimate(overlaps[lag], fraction=True).text} at lag {lag}" for lag in dict.fromkeys((common[0], common[-1]))
    ]
    width = int(overlaps[common[0]][0].labels["width"])
    return [
        f"Planes of {width} successive updates, at lags at which they share neither updates nor momentum: overlap "
        f"{', '.join(values)} (two random planes: {number(width / sources[0].n_params)})."
    ]


def _without_half_life(lives: Sequence[Quantity], n_seeds: int) -> str:
    """Say why seeds have no half-life: one clause for those that do not cross, one for each other reason."""
    crossings = [(life, NOT_CROSSED.match(life.reason or "")) for life in lives]
    lags = sorted(float(match[1]) for _, match in crossings if match)
    clauses = []
    if lags:
        which = f"any of {n_seeds}" if len(lags) == n_seeds > 1 else f"{len(lags)} of {n_seeds}"
        named = f"largest lag{'s' if len(lags) > 1 else ''} {', '.join(number(lag) for lag in lags)}"
        clauses.append(f"does not cross within the run in {which} seed{'s' if n_seeds > 1 else ''} ({named})")
    others = [life.reason or "undefined" for life, match in crossings if not match]
    clauses += [f"{others.count(why)} of {n_seeds} seeds: {why}" for why in dict.fromkeys(others)]
    return "; ".join(clauses)


def _lag_panel(sources: Sequence[Record], side: str) -> Panel:
    where, color = SIDES[side]
    counts = {
        lag: len(select(sources, "overlap", lag=lag, **{"from": side}))
        for lag in label_numbers(sources, "overlap", "lag")
    }
    lags = [lag for lag, count in counts.items() if count and count == max(counts.values())]
    lines = [
        _lag_line(sources, side, lags, "ceiling"),
        _lag_line(sources, side, lags, "overlap"),
        *_floor_line(sources, lags),
        *_half_life_line(sources, side, color),
    ]
    title, x_title = f"from the {where}", "lag (steps)"
    return Panel(title, x_title, "overlap (fraction)", lines, x_log=True, ticks=lags, x_name="lag")


def _lag_line(sources: Sequence[Record], side: str, lags: Sequence[float], name: str) -> Line:
    where, color = SIDES[side]
    key, label, style = {
        "ceiling": ("ceiling", "ceiling: two halves of one sample", Style(GREY, "dash", "square")),
        "overlap": (f"overlap-{side}", f"overlap, from the {where}", Style(color, width=3)),
    }[name]
    points = [estimate(select(sources, name, lag=lag, **{"from": side}), fraction=True) for lag in lags]
    return Line(key, label, "drift", style, lags, points)


def _floor_line(sources: Sequence[Record], lags: Sequence[float]) -> list[Line]:
    floor = estimate(select(sources, "floor"), fraction=True)
    if floor.mean is None or not lags:
        return []
    return [reference_line("floor", "floor: two random planes", [lags[0], lags[-1]], floor, Style(GREY, "dot"))]


def _half_life_line(sources: Sequence[Record], side: str, color: str) -> list[Line]:
    life = estimate_positive(select(sources, "half_life", **{"from": side})).mean
    if life is None:
        return []
    label = f"half-life, from the {SIDES[side][0]}: {number(life)} steps"
    upright, style = [Estimate(0.0), Estimate(1.0)], Style(color, "dashdot", width=1.2)
    return [Line(f"half-life-{side}", label, "reference", style, [life, life], upright, mode="plain", tabled=0)]


def _loss_line(record: Record, side: str) -> Line | None:
    overlaps = [q for q in record.select("rescaled_overlap", **{"from": side}) if "loss" in q.labels]
    overlaps.sort(key=lambda overlap: float(overlap.labels["loss"]))
    if not overlaps:
        return None
    where, color = SIDES[side]
    style = Style(color, "solid" if side == DAMAGED else "dash", "circle" if side == DAMAGED else "square", 1.2)
    points = [Estimate(q.value, n_seeds=1, reason=q.reason or f"lag {q.labels['lag']}") for q in overlaps]
    losses = [float(overlap.labels["loss"]) for overlap in overlaps]
    return Line(f"loss-{side}", f"from the {where}", "drift", style, losses, points)


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
    pictures=each(retention_picture, drift_picture, drift_loss_picture),
    nulls={
        "overlap": "floor (two random planes) and the other tasks' planes",
        "rescaled_overlap": "the other tasks' planes at the starting point",
        "retention": "the other tasks' planes at the starting point",
        "retention_at_claim_lags": "the other tasks' planes at the starting point, over what a fresh plane holds",
        "window_overlap": "the same windows of a blind run",
    },
)
