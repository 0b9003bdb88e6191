"""Which comes first: the end of one direction's window, or the step at which the order of two matters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lineament.records import Quantity, Record
from lineament.report.estimates import estimate, estimate_geometric, percent, select
from lineament.report.sections.local_geometry.pairs import (
    DIRECTIONS,
    KINDS,
    SIZE,
    geometric,
    narrowed,
    of_pair,
    pairs_of,
    seed_medians,
    tasks_of,
)
from lineament.report.sections.local_geometry.windows import STYLES, smallest_step
from lineament.report.series import BLACK, Line, Panel, Picture, Style

CAPTION = (
    "All on one logarithmic axis, in lengths of |theta_star - theta_start|. Upper rows: how far each task's loss "
    "follows its gradient. Lower rows: where the order of two steps changes 10 % of where they lead, and up to where "
    "the held-out loss after both is predicted. Where onsets lie left of windows, order matters although each step "
    "alone is still predictable. One dot per task or pair, geometric mean over seeds; black: the median over tasks or "
    "pairs, with its 95 % interval over seeds."
)
# Dots of one row are spread over this much of its height, so that equal ones can be told apart.
SPREAD = 0.5


def first_picture(sources: Sequence[Record]) -> Picture | None:
    """Draw the windows of tasks and the onsets of pairs on one axis."""
    rows = [*_window_rows(sources), *_pair_rows(sources, "onset_eps", "order matters"),
            *_pair_rows(sources, "pair_radius", "both predictable")]  # fmt: skip
    if not rows or not select(sources, "onset_eps"):
        return None
    lines = []
    for place, (_, line, middle) in enumerate(rows):
        lines.append(replace(line, x=[place + shift for shift in _spread(len(line.points))]))
        lines.append(replace(middle, x=[place]))
    names = [name for name, _, _ in rows]
    panel = Panel("which comes first", SIZE, "", lines, x_log=True, fraction=False, rows=names, x_name="row")
    return Picture("geometry-first", _title(sources), CAPTION, [panel], sources, _beyond(sources))


def _window_rows(sources: Sequence[Record]) -> list[tuple[str, Line, Line]]:
    lowest, rows = smallest_step(sources), []
    own = narrowed(sources, "window")
    for direction, words in DIRECTIONS.items():
        named = {task: select(own, "window", task=task, direction=direction) for task in tasks_of(sources)}
        medians = [max(m, lowest) for m in seed_medians(sources, "window", direction=direction)]
        name, style = f"window, {words}", STYLES[direction]
        rows += _row(name, direction, replace(style, symbol="circle"), named, medians, lowest)
    return rows


def _pair_rows(sources: Sequence[Record], name: str, what: str) -> list[tuple[str, Line, Line]]:
    tasks, rows = tasks_of(sources), []
    lowest = smallest_step(sources) if name == "pair_radius" else 0.0
    own = narrowed(sources, name)
    for kind, (words, style) in KINDS.items():
        places = [(i, j) for i, j in pairs_of(tasks) if (i == j) == (kind == "within")]
        named = {
            tasks[i] if i == j else f"{tasks[i]}, {tasks[j]}": of_pair(own, name, tasks[i], tasks[j]) for i, j in places
        }
        medians = [max(m, lowest) for m in seed_medians(own, name, pair=kind)]
        rows += _row(f"{what}, {words}", f"{name}-{kind}", style, named, medians, lowest)
    return rows


def _row(
    name: str,
    key: str,
    style: Style,
    named: dict[str, list[Quantity]],
    medians: Sequence[float],
    lowest: float,
) -> list[tuple[str, Line, Line]]:
    """Return a row's name, its dots and its median; nothing where no task or pair has a value."""
    points = {who: geometric(found, lowest) for who, found in named.items() if found}
    known = [replace(point, reason=who) for who, point in points.items() if point.mean is not None]
    if not known:
        return []
    dots = Line(key, name, "each", style, [], known, mode="dots", bars=False, tabled=60)
    middle = Style(BLACK, symbol="diamond")
    return [
        (
            name,
            dots,
            Line(
                "median", "median over tasks or pairs", "median", middle, [], [estimate_geometric(medians)], mode="dots"
            ),
        )
    ]


def _spread(count: int) -> list[float]:
    return [SPREAD * ((i + 0.5) / count - 0.5) for i in range(count)]


def _beyond(sources: Sequence[Record]) -> list[str]:
    """Say how many pairs have no onset among the step sizes that were tried."""
    notes = []
    for kind, (words, _) in KINDS.items():
        onsets = select(sources, "onset", pair=kind)
        without = [onset.reason or "undefined" for onset in onsets if onset.value is None]
        if without:
            notes.append(
                f"Not drawn, {words}: {len(without)} of {len(onsets)} pairs over all seeds, e.g. {without[0]}."
            )
    return notes


def _title(sources: Sequence[Record]) -> str:
    shares = {kind: estimate(select(sources, "share_inside_window", pair=kind), fraction=True) for kind in KINDS}
    between, within = shares["between"].mean, shares["within"].mean
    if between is None:
        return "How far one step is predictable, and where the order of two matters"
    beside = f" (two batches of one task: {percent(within)})" if within is not None else ""
    return f"In {percent(between)} of the pairs of tasks, order matters inside the windows of both{beside}"
