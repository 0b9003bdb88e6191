"""Capture against the length of the recovery, measured and blind: on which side of the regime map a run lies."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.claims.registry import CLAIMS
from lineament.records import Quantity, Record
from lineament.report.estimates import Estimate, blind_of, estimate, label_integers, select
from lineament.report.sections.section import Section, each
from lineament.report.series import BLUE, GREY, VERMILLION, Line, Panel, Picture, Style, reference_line

# of the paper's capture (arXiv 2606.10929); how long its recoveries were is not known
PAPER_RANK = 10
CAPTION = (
    "Share of the way from the damaged point to step T' that lies in the span of a few updates, for every T' as if the "
    "recovery had ended there. Dashed: the same optimizer on gradients that know nothing. Where the two lie together, "
    "a high capture is the optimizer's and says nothing about the task."
)
PANELS = {"whole": "the whole way", "rest": "without the updates that span the basis"}
LINES = {
    "prefix": ("the first {rank} updates", BLUE, "circle"),
    "control_random_times": ("{rank} updates at random times", VERMILLION, "square"),
}


def horizon_picture(sources: Sequence[Record]) -> Picture | None:
    """Draw captures by the first updates and by updates at random times against T', measured and blind."""
    at = label_integers(sources, "horizon_capture", "horizon")
    if not at:
        return None
    panels = [_panel(sources, definition, at) for definition in PANELS]
    title = "How much of the way a few updates hold, by its length"
    return Picture("capture-by-horizon", title, CAPTION, panels, sources, [_closed_text(sources, at)])


def _panel(sources: Sequence[Record], definition: str, at: Sequence[int]) -> Panel:
    rank = label_integers(sources, "horizon_capture", "rank")[0]
    lines = []
    for basis, (words, color, symbol) in LINES.items():
        label = words.format(rank=rank)
        of = [_captures(sources, basis, definition, horizon) for horizon in at]
        measured = [estimate(own, fraction=True) for own in of]
        blind = [blind_of(own) for own in of]
        lines += [
            Line(basis, label, "own", Style(color, symbol=symbol, width=3), at, measured),
            Line(f"{basis}-blind", f"{label}, blind", "null", Style(color, "dash", symbol, open=True), at, blind),
        ]
    paper = CLAIMS["prefix_captures"].paper
    if definition == "whole" and rank == PAPER_RANK and paper is not None:
        ends, style = [at[0], at[-1]], Style(GREY, "dot")
        lines.append(reference_line("paper", "the paper, T unknown", ends, Estimate(paper), style))
    x_title, y_title = "T' (steps)", "held (fraction)"
    return Panel(PANELS[definition], x_title, y_title, lines, x_log=True, ticks=_ticks(at), x_name="T'")


def _captures(sources: Sequence[Record], basis: str, definition: str, horizon: int) -> list[Quantity]:
    return list(select(sources, "horizon_capture", basis=basis, definition=definition, horizon=horizon))


def _ticks(at: Sequence[int]) -> list[float]:
    """Return every other horizon, so that their numbers do not run into each other."""
    return [float(horizon) for horizon in at[::2]]


def _closed_text(sources: Sequence[Record], at: Sequence[int]) -> str:
    shares = [
        f"{estimate(select(sources, 'closed_share', horizon=horizon), fraction=False).text} at T' = {horizon}"
        for horizon in (at[0], at[len(at) // 2], at[-1])
    ]
    return f"Of the loss gap between the damaged and the trained model, this is closed: {', '.join(shares)}."


SECTION = Section(
    "capture_by_horizon",
    "Capture by the length of the recovery",
    "where a high capture is the optimizer's own",
    pictures=each(horizon_picture),
    nulls={"horizon_capture": "the same basis of a blind run", "closed_share": "none: it says how far the run is"},
)
