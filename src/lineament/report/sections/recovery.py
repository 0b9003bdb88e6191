"""The pictures of a report, each made from records alone. A picture whose figures were not measured is None."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lineament.records import Label, Record
from lineament.report.drawing import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILLION, reference_line
from lineament.report.series import (
    Estimate,
    Line,
    Panel,
    Picture,
    Style,
    estimate,
    label_values,
    number,
    of,
    select,
)
from lineament.report.words import CAPTIONS, POINTS, STATIC, basis_label, group_of

SHOWN = (
    "prefix", "trajectory_top", "control_random_times", "control_preconditioned", "control_other_data",
    "null_noise_prefix", "random",
)  # fmt: skip
BEST_STATICS_SHOWN = 2
# Bars of every line would hide each other: these and the best fixed plane, which the verdicts compare, have them.
WITH_BARS = ("prefix", "null_noise_prefix")
STYLES = {
    "prefix": Style(VERMILLION, width=3.5),
    "trajectory_top": Style(BLACK, "dot", "diamond"),
    "static_broken": Style(BLUE, symbol="square", width=2.5),
    "static_all_tasks": Style(BLUE, "dash", "square", open=True),
    "static_star": Style(BLUE, "dot", "triangle-up"),
    "static_start": Style(BLUE, "dashdot", "triangle-down"),
    "static_hessian_top": Style(BLUE, "longdash", "diamond", open=True),
    "task_vectors": Style(BLUE, "solid", "x"),
    "krylov": Style(PURPLE, "dash", "star", open=True),
    "krylov_preconditioned": Style(PURPLE, "solid", "star"),
    "control_random_times": Style(GREEN, "dash", "triangle-up"),
    "control_preconditioned": Style(GREEN, "solid", "square"),
    "control_frozen_run": Style(GREEN, "dot", "diamond"),
    "control_other_data": Style(GREEN, "dashdot", "triangle-down", open=True),
    "null_noise_prefix": Style(ORANGE, "dash", "x"),
    "null_other_task": Style(ORANGE, "dot", "diamond", open=True),
    "random": Style(GREY, "dot", "circle", open=True),
}
DEFINED = {
    "whole": "whole way back",
    "rest": "rest: less what the basis is made of",
}


def shown_rank(records: Sequence[Record], quantity: str, wanted: int) -> int | None:
    """`wanted`, or the nearest smaller rank that has a value in some seed (else the smallest)."""
    ranks = [int(f.labels["rank"]) for f in select(records, quantity) if f.value is not None and "rank" in f.labels]
    return max((r for r in ranks if r <= wanted), default=min(ranks, default=None))


def own_rank(records: Sequence[Record], basis: str, wanted: int) -> int | None:
    """`wanted`, or the full rank of a basis that has fewer directions: the largest at which it was captured."""
    figures = select(records, "capture", basis=basis, definition="whole", at="T", space_of="parameters")
    ranks = [int(f.labels["rank"]) for f in figures if f.value is not None]
    return max((r for r in ranks if r <= wanted), default=None)


def capture_at(
    records: Sequence[Record], basis: str, rank: int, definition: str, space: str = "parameters", at: str = "T"
) -> Estimate:
    """Capture of one basis over seeds, at T or at 2T."""
    labels: dict[str, Label] = {
        "basis": basis,
        "rank": rank,
        "definition": definition,
        "at": at,
        "space_of": space,
    }
    return estimate(select(records, "capture", **labels), fraction=True)


def best_statics(records: Sequence[Record], rank: int) -> list[str]:
    """Static bases by their mean whole capture at `rank` or their full rank below, best first; undefined left out."""
    ranks = {name: own for name in STATIC if (own := own_rank(records, name, rank)) is not None}
    found = {name: capture_at(records, name, own, "whole").mean for name, own in ranks.items()}
    known = {name: value for name, value in found.items() if value is not None}
    return sorted(known, key=lambda name: -known[name])


def capture_picture(records: Sequence[Record], rank: int) -> Picture | None:
    """Capture against rank for every basis, control and null: whole and rest side by side."""
    sources = of(records, "basis_capture")
    used = shown_rank(sources, "capture", rank)
    if used is None:
        return None
    best = best_statics(sources, used)
    panels = [_capture_panel(sources, definition, best) for definition in DEFINED]
    return Picture("capture", _capture_title(sources, used, best), CAPTIONS["capture"], panels, sources)


def recover_picture(records: Sequence[Record], rank: int) -> Picture | None:
    """Accuracy after training only inside a subspace, and after projecting onto it, between the references."""
    sources = of(records, "basis_capture")
    used = shown_rank(sources, "trained_inside", rank)
    if used is None:
        return None
    rows = _recover_rows(sources, used)
    lines = [
        _dots(sources, rows, "trained_inside", "trained inside the subspace", Style(VERMILLION), -0.13),
        _dots(
            sources,
            rows,
            "projected",
            "projected onto it",
            Style(BLUE, symbol="diamond", open=True),
            0.13,
        ),
        *_references(sources, len(rows)),
    ]
    names = [name for name, _ in rows]
    title = f"accuracy at rank {used}"
    panel = Panel(title, "held-out accuracy (fraction)", "", lines, rows=names, x_name="subspace")
    return Picture("recover", _recover_title(sources, used, rows), CAPTIONS["recover"], [panel], sources)


def grid_pictures(records: Sequence[Record], rank: int) -> list[Picture]:
    """Captures over step size and damage kind, one picture per definition; empty if the grid was not measured."""
    sources = [r for r in records if any(f.name == "grid_capture" for f in r.quantities)]
    used = shown_rank(sources, "grid_capture", rank)
    if used is None:
        return []
    pictures = []
    for definition in label_values(sources, "grid_capture", "definition"):
        damages = label_values(sources, "grid_capture", "damage")
        panels = [_grid_panel(sources, str(damage), str(definition), used) for damage in damages]
        title = f"How much damage and step size decide ({definition})"
        pictures.append(Picture(f"grid-{definition}", title, CAPTIONS["grid"], panels, sources))
    return pictures


def _capture_panel(sources: list[Record], definition: str, best: list[str]) -> Panel:
    ranks = [int(rank) for rank in label_values(sources, "capture", "rank")]
    names = [str(name) for name in label_values(sources, "capture", "basis")]
    order = {name: i for i, name in enumerate(STYLES)}
    names.sort(key=lambda name: order.get(name, len(order)))
    shown = {*SHOWN, *best[:BEST_STATICS_SHOWN]}
    barred = {*WITH_BARS, *best[:1]}
    lines = [_capture_line(sources, name, definition, ranks, name in shown, name in barred) for name in names]
    share = [estimate(select(sources, "prefix_share_of_steps", rank=rank), fraction=True) for rank in ranks]
    lines.append(Line("share", "k / T", "reference", Style(GREY, width=1.2), ranks, share, mode="plain"))
    x_title, y_title = "rank k (directions)", "captured (fraction)"
    title = DEFINED[definition]
    return Panel(title, x_title, y_title, lines, x_log=True, ticks=ranks, x_name="rank")


def _capture_line(sources: list[Record], name: str, definition: str, ranks: list[int], shown: bool, bars: bool) -> Line:
    points = [capture_at(sources, name, rank, definition) for rank in ranks]
    style = STYLES.get(name, Style(GREY, "dash"))
    return Line(name, basis_label(name), group_of(name), style, ranks, points, shown=shown, bars=bars)


def _capture_title(sources: list[Record], rank: int, best: list[str]) -> str:
    prefix = capture_at(sources, "prefix", rank, "whole").mean
    own = own_rank(sources, best[0], rank) if best else None
    static = capture_at(sources, best[0], own, "whole").mean if own else None
    if prefix is None or static is None:
        return "How much of the way back lies in k directions"
    held = f"The first {rank} updates hold {100 * prefix:.0f} % of the way back"
    return f"{held}, the best plane fixed beforehand {100 * static:.0f} %"


def _recover_rows(sources: list[Record], rank: int) -> list[tuple[str, dict[str, Label]]]:
    """(name, labels) of the rows: other bases, the best static of each seed, then statics if all were trained."""
    bases = {str(f.labels["basis"]) for f in select(sources, "trained_inside", rank=rank)}
    others = [name for name in STYLES if name in bases and name not in STATIC]
    others += sorted(bases - set(STYLES))
    statics = [name for name in STYLES if name in bases and name in STATIC]
    every = len({f.labels["basis"] for f in select(sources[:1], "trained_inside", rank=rank)} & set(STATIC)) > 1
    rows: list[tuple[str, dict[str, Label]]] = [(basis_label(name), {"basis": name, "rank": rank}) for name in others]
    # In some seeds it may be a basis of fewer directions, whose own rank is lower.
    rows.insert(1, ("best fixed plane (per seed)", {"role": "best_static", "for_rank": rank}))
    return rows + ([(basis_label(name), {"basis": name, "rank": rank}) for name in statics] if every else [])


def _dots(
    sources: list[Record],
    rows: list[tuple[str, dict[str, Label]]],
    quantity: str,
    label: str,
    style: Style,
    shift: float,
) -> Line:
    def point(labels: dict[str, Label]) -> Estimate:
        return estimate(select(sources, quantity, statistic="accuracy", **labels), fraction=True)

    places = [i + shift for i in range(len(rows))]
    return Line(quantity, label, "subspace", style, places, [point(labels) for _, labels in rows], mode="dots")


def _references(sources: list[Record], rows: int) -> list[Line]:
    looks = {"broken": Style(GREY, "dot"), "recovered": Style(GREEN, "dash"), "star": Style(BLACK, width=1.5)}
    lines = []
    for point, style in looks.items():
        found = estimate(select(sources, "reference", point=point, statistic="accuracy"), fraction=True)
        if found.mean is not None:
            label = f"{POINTS[point]} model ({number(found.mean)})"
            lines.append(reference_line(f"reference-{point}", label, [-0.45, rows - 0.55], found, style))
    return lines


def _recover_title(sources: list[Record], rank: int, rows: list[tuple[str, dict[str, Label]]]) -> str:
    def inside(**labels: Label) -> float | None:
        found = select(sources, "trained_inside", statistic="accuracy", **labels)
        return estimate(found, fraction=True).mean

    prefix, static = inside(basis="prefix", rank=rank), inside(role="best_static", for_rank=rank)
    if prefix is None or static is None:
        return "What training inside a subspace can recover"
    start = f"Training only {rank} coordinates recovers an accuracy of {prefix:.2f} in the first updates' span"
    return f"{start}, {static:.2f} in the best fixed plane"


def _grid_panel(sources: list[Record], damage: str, definition: str, rank: int) -> Panel:
    rates = [float(lr) for lr in label_values(sources, "grid_capture", "lr")]
    names = [str(name) for name in label_values(sources, "grid_capture", "basis")]

    def point(basis: str, lr: float) -> Estimate:
        labels: dict[str, Label] = {
            "damage": damage,
            "lr": lr,
            "basis": basis,
            "rank": rank,
            "definition": definition,
        }
        return estimate(select(sources, "grid_capture", **labels), fraction=True)

    make: Callable[[str], list[Estimate]] = lambda basis: [point(basis, lr) for lr in rates]  # noqa: E731
    lines = [
        Line(name, basis_label(name), group_of(name), STYLES.get(name, Style(GREY, "dash")), rates, make(name))
        for name in names
    ]
    x_title, title = "step size of the recovery", f"damage: {damage.replace('_', ' ')}"
    return Panel(title, x_title, "captured (fraction)", lines, x_log=True, ticks=rates, x_name="step size")
