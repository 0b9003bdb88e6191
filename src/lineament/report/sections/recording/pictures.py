"""Pictures of a recorded run: what its first updates capture, and how long its directions last."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.records import Label, Quantity, Record
from lineament.report.estimates import (
    Estimate,
    blind_of,
    cosine_over_recordings,
    estimate,
    label_texts,
    label_values,
    nulls_of,
    select,
)
from lineament.report.sections.bases import basis_label, group_of, in_order, style_of
from lineament.report.series import BLACK, BLUE, GREEN, GREY, PURPLE, VERMILLION, Line, Panel, Picture, Style

SPACES = {"parameters": "as recorded", "lora_effective": "in dW"}
DEFINED = {"whole": "whole displacement", "rest": "rest"}
DIRECTION_STYLES = (
    Style(VERMILLION),
    Style(BLUE, symbol="square"),
    Style(GREEN, symbol="diamond"),
    Style(PURPLE, symbol="star"),
)
TITLE_RANK = 10
OVER = "over recordings"
WHOLE: dict[str, Label] = {"definition": "whole", "at": "end", "space_of": "parameters"}
BLIND = {
    "prefix": ("blind run: first k updates", "dot"),
    "control_random_times": ("blind run: k updates at random times", "dash"),
}
SPAN_CAPTION = (
    "Share of the displacement from the first to the last recorded point that lies inside a subspace of k directions. "
    "Rest: without the updates that a basis is made of, which it holds by construction. The thin grey lines are a "
    "blind run: the same optimizer and step sizes on gradients that know nothing. k / T is what independent updates "
    "of equal length would give, which those of momentum are not. The top k directions of all updates are a "
    "reference, not a bound. In dW (scale B A) captures do not depend on how the factors are scaled. Bars: 95 % "
    "interval over recordings."
)
PLANES_CAPTION = (
    "Overlap of the planes of two windows of recorded rows: 1 is the same plane. The ceiling is what the even and the "
    "odd rows of one window reach, so it means 'no drift'. Momentum makes neighbouring updates alike: only windows "
    "too far apart to share it are compared, and the ceiling, made within a window, is too high rather than too low."
)
STALE_CAPTION = (
    "Cosine of a direction of one step with the same kind of direction at a later step. Task vector: the displacement "
    "from the start; dotted: of a blind run, or, where the optimizer is not known, of independent updates. Weight "
    "step: the mean gradient or update in a window. Less its noise: the same for the expected gradients, where a "
    "window tells them from noise."
)
STALE_TITLES = {
    "task_vector_cosine": "task vectors",
    "direction_cosine": "weight steps",
    "direction_cosine_corrected": "weight steps, less their noise",
}


def span_picture(sources: Sequence[Record]) -> Picture | None:
    """Draw capture against rank, whole and rest as recorded, and whole in dW if there is an adapter."""
    if not select(sources, "capture", at="end"):
        return None
    spaces = label_texts(sources, "capture", "space_of")
    shown = [("parameters", "whole"), ("parameters", "rest"), ("lora_effective", "whole")]
    panels = [_capture_panel(sources, space, definition) for space, definition in shown if space in spaces]
    return Picture("recording-capture", _span_title(sources), SPAN_CAPTION, panels, sources, spread=OVER)


def _span_title(sources: Sequence[Record]) -> str:
    """Say what the first updates capture, beside as many at random times and a blind run's."""
    found = {basis: select(sources, "capture", basis=basis, rank=TITLE_RANK, **WHOLE) for basis in BLIND}
    prefix, control = (estimate(own, fraction=True).mean for own in found.values())
    if prefix is None or control is None:
        return "How much of the run its first updates capture"
    blind, blind_control = (blind_of(own).mean for own in found.values())
    return (
        f"The first {TITLE_RANK} updates hold {_share(prefix, blind)} of the displacement, "
        f"{TITLE_RANK} at random times {_share(control, blind_control)}"
    )


def _share(captured: float, blind: float | None) -> str:
    beside = "" if blind is None else f" (a blind run's {100 * blind:.0f}\u00a0%)"
    return f"{100 * captured:.0f}\u00a0%{beside}"


def planes_picture(sources: Sequence[Record]) -> Picture | None:
    """Draw the overlap of planes of recorded rows against lag, early and late in the run, with ceiling."""
    if not select(sources, "plane_overlap"):
        return None
    panels = [_plane_panel(sources, phase) for phase in ("early", "late")]
    panels = [panel for panel in panels if panel.lines]
    rows = label_values(sources, "plane_overlap", "rows")
    title = f"How long the plane of {' and '.join(map(str, rows))} stays the same"
    return Picture("recording-planes", title, PLANES_CAPTION, panels, sources, spread=OVER)


def staleness_picture(sources: Sequence[Record]) -> Picture | None:
    """Draw the cosine of directions of one step with those of later steps."""
    panels = []
    for name, title in STALE_TITLES.items():
        shares = label_values(sources, name, "share")
        lines = [line for i, share in enumerate(shares) for line in _stale_lines(sources, name, share, i)]
        if lines:
            x_title = "later time (% of the run)"
            panel = Panel(title, x_title, "cosine", lines, fraction=False, x_name="time", y_range=(-0.1, 1.05))
            panels.append(panel)
    if not panels:
        return None
    title = "How fast a direction goes stale during the run"
    return Picture("recording-stale", title, STALE_CAPTION, panels, sources, spread=OVER)


def _capture_panel(sources: Sequence[Record], space: str, definition: str) -> Panel:
    labels: dict[str, Label] = {"definition": definition, "at": "end", "space_of": space}
    captures = select(sources, "capture", **labels)
    ranks = sorted({int(capture.labels["rank"]) for capture in captures})
    names = in_order(dict.fromkeys(str(capture.labels["basis"]) for capture in captures))
    lines = [_capture_line(sources, name, ranks, labels) for name in names]
    if definition == "whole":
        nulls = [_mean_null(sources, rank, labels) for rank in ranks]
        lines.append(Line("share", "k / T", "reference", Style(GREY, width=1.2), ranks, nulls, mode="plain"))
    if any(capture.blind is not None for capture in captures):
        lines += [_blind_line(captures, name, ranks) for name in BLIND]
    title = f"{DEFINED[definition]}, {SPACES[space]}"
    return Panel(title, "rank k (directions)", "captured (fraction)", lines, x_log=True, ticks=ranks, x_name="rank")


def _capture_line(sources: Sequence[Record], name: str, ranks: list[int], labels: dict[str, Label]) -> Line:
    points = [estimate(select(sources, "capture", basis=name, rank=rank, **labels), fraction=True) for rank in ranks]
    return Line(name, basis_label(name), group_of(name), style_of(name), ranks, points)


def _blind_line(captures: Sequence[Quantity], basis: str, ranks: list[int]) -> Line:
    label, dash = BLIND[basis]
    points = [blind_of([c for c in captures if c.matches("capture", basis=basis, rank=rank)]) for rank in ranks]
    return Line(f"blind-{basis}", label, "null", Style(GREY, dash, width=1.2), ranks, points, mode="plain")


def _mean_null(sources: Sequence[Record], rank: int, labels: dict[str, Label]) -> Estimate:
    nulls = nulls_of(select(sources, "capture", basis="prefix", rank=rank, **labels))
    return Estimate(sum(nulls) / len(nulls), n_seeds=len(nulls)) if nulls else Estimate(None)


def _plane_panel(sources: Sequence[Record], phase: str) -> Panel:
    overlaps = select(sources, "plane_overlap", **{"from": phase})
    lags = sorted({int(overlap.labels["lag"]) for overlap in overlaps})
    looks = {
        "plane_overlap": ("overlap", Style(VERMILLION, width=3)),
        "plane_ceiling": ("ceiling (no drift)", Style(BLACK, "dash", "square")),
    }
    lines = [
        Line(name, label, "drift", style, lags, [_at_lag(sources, name, phase, lag) for lag in lags])
        for name, (label, style) in looks.items()
        if lags
    ]
    by_chance = [blind_of(select(sources, "plane_overlap", lag=lag, **{"from": phase})) for lag in lags]
    if any(estimate.mean is not None for estimate in by_chance):
        look = Style(GREY, "dot", width=1.2)
        lines.append(Line("blind", "the same windows of a blind run", "null", look, lags, by_chance, mode="plain"))
    title = f"windows that start {'in the first third' if phase == 'early' else 'later'}"
    return Panel(title, "lag (optimizer steps)", "overlap (fraction)", lines, x_name="lag")


def _at_lag(sources: Sequence[Record], name: str, phase: str, lag: int) -> Estimate:
    labels: dict[str, Label] = {"from": phase, "lag": lag}
    return estimate(select(sources, name, **labels), fraction=True)


def _stale_lines(sources: Sequence[Record], name: str, share: Label, index: int) -> list[Line]:
    spaced = "parameters" in label_values(sources, name, "space_of")
    where: dict[str, Label] = {"space_of": "parameters"} if spaced else {}
    cosines = select(sources, name, share=share, **where)
    later = sorted({float(cosine.labels["at_share"]) for cosine in cosines})
    points = [cosine_over_recordings(c for c in cosines if c.labels["at_share"] == at) for at in later]
    style, x, when = DIRECTION_STYLES[index % len(DIRECTION_STYLES)], [100 * at for at in later], f"{float(share):.0%}"
    lines = [Line(f"stale-{when}", f"at {when} of the run", "direction", style, x, points)]
    if name == "task_vector_cosine":
        blind = all(c.blind is not None for c in cosines)
        nulls = [Estimate(_beside([c for c in cosines if c.labels["at_share"] == at], blind)) for at in later]
        look, what = Style(style.color, "dot", width=1.2), "a blind run" if blind else "independent updates"
        lines.append(Line(f"null-{when}", f"at {when}, {what}", "null", look, x, nulls, mode="plain"))
    return lines


def _beside(cosines: Sequence[Quantity], blind: bool) -> float | None:
    """Mean blind value of cosines, or mean null."""
    values = [value for c in cosines if (value := c.blind if blind else c.null) is not None]
    return sum(values) / len(values) if values else None
