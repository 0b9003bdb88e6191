"""Pictures of a recorded run: what its first updates hold, and how long its directions last."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.records import Label, Record
from lineament.report.estimates import Estimate, estimate, label_texts, label_values, select
from lineament.report.sections.bases import basis_label, group_of, in_order, style_of
from lineament.report.series import BLACK, BLUE, GREEN, GREY, PURPLE, VERMILLION, Line, Panel, Picture, Style

SPACES = {"parameters": "as recorded", "lora_effective": "in dW"}
DEFINED = {"whole": "whole way", "rest": "rest: less what the basis is made of"}
DIRECTION_STYLES = (
    Style(VERMILLION),
    Style(BLUE, symbol="square"),
    Style(GREEN, symbol="diamond"),
    Style(PURPLE, symbol="star"),
)
WHOLE: dict[str, Label] = {"definition": "whole", "at": "end", "space_of": "parameters"}
CAPTURE_CAPTION = (
    "Share of the displacement from the first to the last recorded point that lies inside a "
    "subspace of k directions. The thin line k / T is what independent updates of equal length would give. The top k "
    "directions of all updates are a reference, not a bound. In dW (scale B A) figures do not depend on how the "
    "factors are scaled. Bars: 95 % interval over recordings."
)
PLANES_CAPTION = (
    "Overlap of the planes of two windows of recorded rows: 1 is the same plane. The ceiling is "
    "what the even and the odd rows of one window reach, so it means 'no drift'. Updates share momentum with their "
    "neighbours: only windows beyond its reach are compared, and their ceiling is too high rather than too low."
)
STALE_CAPTION = (
    "Cosine of a direction of one step with the same kind of direction at a later step. Task "
    "vector: displacement from the start; dotted, what sums of independent updates would give. Weight step: mean "
    "gradient or update in a window, over what the even and odd rows of the windows allow."
)


def span_picture(sources: Sequence[Record]) -> Picture | None:
    """Capture against rank, whole and rest as recorded, and whole in dW where there is one."""
    if not select(sources, "capture", at="end"):
        return None
    spaces = label_texts(sources, "capture", "space_of")
    shown = [("parameters", "whole"), ("parameters", "rest"), ("lora_effective", "whole")]
    panels = [_capture_panel(sources, space, definition) for space, definition in shown if space in spaces]
    held = estimate(select(sources, "capture", basis="prefix", rank=10, **WHOLE), fraction=True)
    title = "How much of the run its first updates hold"
    if held.mean is not None:
        title = f"The first 10 recorded updates hold {100 * held.mean:.0f} % of the whole way"
    return Picture("recording-capture", title, CAPTURE_CAPTION, panels, sources)


def planes_picture(sources: Sequence[Record]) -> Picture | None:
    """Overlap of planes of recorded rows against lag, early and late in the run, with ceiling and floor."""
    if not select(sources, "plane_overlap"):
        return None
    panels = [_plane_panel(sources, phase) for phase in ("early", "late")]
    panels = [panel for panel in panels if panel.lines]
    rows = label_values(sources, "plane_overlap", "rows")
    title = f"How long the plane of {' and '.join(map(str, rows))} stays the same"
    return Picture("recording-planes", title, PLANES_CAPTION, panels, sources)


def staleness_picture(sources: Sequence[Record]) -> Picture | None:
    """Cosine of directions of one step with those of later steps."""
    panels = []
    for quantity, title in (("task_vector_cosine", "task vectors"), ("direction_cosine", "weight steps")):
        shares = label_values(sources, quantity, "share")
        lines = [line for i, share in enumerate(shares) for line in _stale_lines(sources, quantity, share, i)]
        if lines:
            x_title = "later time (% of the run)"
            panel = Panel(title, x_title, "cosine", lines, fraction=False, x_name="time", y_range=(-0.1, 1.05))
            panels.append(panel)
    if not panels:
        return None
    title = "How stale a direction of one step is later in the run"
    return Picture("recording-stale", title, STALE_CAPTION, panels, sources)


def _capture_panel(sources: Sequence[Record], space: str, definition: str) -> Panel:
    figures = select(sources, "capture", definition=definition, at="end", space_of=space)
    ranks = sorted({int(f.labels["rank"]) for f in figures})
    names = in_order(dict.fromkeys(str(f.labels["basis"]) for f in figures))
    labels: dict[str, Label] = {"definition": definition, "at": "end", "space_of": space}
    lines = [_capture_line(sources, name, ranks, labels) for name in names]
    if definition == "whole":
        nulls = [_mean_null(sources, rank, labels) for rank in ranks]
        lines.append(Line("share", "k / T", "reference", Style(GREY, width=1.2), ranks, nulls, mode="plain"))
    title = f"{DEFINED[definition]}, {SPACES[space]}"
    return Panel(title, "rank k (directions)", "captured (fraction)", lines, x_log=True, ticks=ranks, x_name="rank")


def _capture_line(sources: Sequence[Record], name: str, ranks: list[int], labels: dict[str, Label]) -> Line:
    points = [estimate(select(sources, "capture", basis=name, rank=rank, **labels), fraction=True) for rank in ranks]
    return Line(name, basis_label(name), group_of(name), style_of(name), ranks, points)


def _mean_null(sources: Sequence[Record], rank: int, labels: dict[str, Label]) -> Estimate:
    nulls = [f.null for f in select(sources, "capture", basis="prefix", rank=rank, **labels) if f.null is not None]
    return Estimate(sum(nulls) / len(nulls), n_seeds=len(nulls)) if nulls else Estimate(None)


def _plane_panel(sources: Sequence[Record], phase: str) -> Panel:
    lags = sorted({int(f.labels["lag"]) for f in select(sources, "plane_overlap", **{"from": phase})})
    looks = {
        "plane_overlap": ("overlap", Style(VERMILLION, width=3)),
        "plane_ceiling": ("ceiling (no drift)", Style(BLACK, "dash", "square")),
    }
    lines = [
        Line(quantity, label, "drift", style, lags, [_at_lag(sources, quantity, phase, lag) for lag in lags])
        for quantity, (label, style) in looks.items()
        if lags
    ]
    title = f"windows that start {'in the first third' if phase == 'early' else 'later'}"
    return Panel(title, "lag (optimizer steps)", "overlap (fraction)", lines, x_name="lag")


def _at_lag(sources: Sequence[Record], quantity: str, phase: str, lag: int) -> Estimate:
    labels: dict[str, Label] = {"from": phase, "lag": lag}
    return estimate(select(sources, quantity, **labels), fraction=True)


def _stale_lines(sources: Sequence[Record], quantity: str, share: Label, index: int) -> list[Line]:
    spaced = "parameters" in label_values(sources, quantity, "space_of")
    where: dict[str, Label] = {"space_of": "parameters"} if spaced else {}
    figures = select(sources, quantity, share=share, **where)
    later = sorted({float(f.labels["at_share"]) for f in figures})
    points = [estimate([f for f in figures if f.labels["at_share"] == at], fraction=False) for at in later]
    style, x, name = DIRECTION_STYLES[index % len(DIRECTION_STYLES)], [100 * at for at in later], f"{float(share):.0%}"
    lines = [Line(f"stale-{name}", f"of {name} of the run", "direction of", style, x, points)]
    if quantity == "task_vector_cosine":
        nulls = [Estimate(next(f.null for f in figures if f.labels["at_share"] == at)) for at in later]
        look = Style(style.color, "dot", width=1.2)
        lines.append(Line(f"null-{name}", f"of {name}, independent updates", "null", look, x, nulls, mode="plain"))
    return lines
