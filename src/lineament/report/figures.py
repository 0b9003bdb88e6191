"""Figures of the report by name, each with its title and legend inside, so that it can stand anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

import plotly.graph_objects as go

from lineament.errors import InputError, unknown_name
from lineament.records import Record
from lineament.report.drawing import draw
from lineament.report.sections.registry import by_target, sections_of, sources_of
from lineament.report.series import Picture
from lineament.report.sparse import worth_drawing
from lineament.report.sweep.claim_grid import claim_grids
from lineament.report.sweep.pictures import claim_pictures

# Name of a figure -> target -> what is drawn.
Pictures = Mapping[str, Mapping[str, Picture]]
# A line of the title (letters, pixels), and what else stands above the panels and below them (pixels).
TITLE_LETTERS, TITLE_LINE, ABOVE = 75, 22, 60
LEGEND_ROW, BELOW = 20, 70
LEGEND_PER_ROW = 3
UNBROKEN = "\u00a0"


def run_pictures(records: Sequence[Record], rank: int) -> Pictures:
    """Return the pictures of a run's page.

    Args:
        rank: the headline rank.
    """
    found: dict[str, dict[str, Picture]] = {}
    for target, own in by_target(records).items():
        for section in sections_of({record.measurement for record in own}):
            for picture in section.pictures(sources_of(section, own), rank):
                if picture is not None and (shown := worth_drawing(picture)):
                    found.setdefault(picture.key, {})[target] = shown
    return found


def sweep_pictures(body: Mapping[str, Any]) -> Pictures:
    """Return the pictures of a sweep's page by claim; a claim's second one is called CLAIM-2.

    Args:
        body: of sweep.json.
    """
    found: dict[str, dict[str, Picture]] = {}
    for grid in claim_grids(body):
        for place, picture in enumerate(claim_pictures(grid), start=1):
            name = grid.claim if place == 1 else f"{grid.claim}-{place}"
            found.setdefault(name, {})[grid.task] = picture
    return found


def figure_titles(pictures: Pictures) -> dict[str, str]:
    """Return name -> title; where several targets have the figure, the first one's title."""
    return {name: next(iter(of.values())).title for name, of in pictures.items()}


def named_figure(pictures: Pictures, name: str, target: str | None) -> go.Figure:
    """Draw one figure.

    Args:
        target: which target's; None where one has it alone.

    Raises:
        InputError: there is no such figure, or not of this target, or several targets have it.
    """
    if not pictures:
        raise InputError(f"there is no figure {name!r}: nothing of what was measured is drawn. to_pandas() has it all.")
    if name not in pictures:
        raise unknown_name("figure", name, pictures)
    of = pictures[name]
    if target is None and len(of) > 1:
        raise InputError(f"{len(of)} targets have the figure {name!r}: {', '.join(of)}. Name one: target=...")
    chosen = next(iter(of)) if target is None else target
    if chosen not in of:
        raise unknown_name("target", chosen, of, f"of the figure {name!r}")
    return _alone(of[chosen])


def _alone(picture: Picture) -> go.Figure:
    """Draw a picture with the title and the legend that the page has outside of it."""
    figure = draw(picture)
    entries = set[str]()
    for trace in figure.data:
        # a band has no name of its own: its line follows
        of_line = isinstance(trace, go.Scatter) and trace.hoverinfo != "skip"
        new = of_line and trace.legendgroup not in entries
        entries |= {trace.legendgroup} if new else set()
        if isinstance(trace, go.Scatter):
            trace.showlegend = new
    title = wrap(picture.title.replace(" %", f"{UNBROKEN}%"), TITLE_LETTERS)
    above, below = ABOVE + TITLE_LINE * len(title), BELOW + LEGEND_ROW * -(-len(entries) // LEGEND_PER_ROW)
    panels = figure.layout.height - figure.layout.margin.t - figure.layout.margin.b
    figure.update_layout(
        title={
            "text": "<br>".join(title),
            "x": 0,
            "xref": "paper",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 16},
        },
        showlegend=bool(entries),
        legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
        height=above + panels + below,
        margin={"t": above, "b": below},
        paper_bgcolor="white",
        plot_bgcolor="white",
    )
    return figure
