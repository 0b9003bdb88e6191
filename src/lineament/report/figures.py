"""Figures of the report by name, each with its title and legend inside, so that it can stand anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lineament.errors import InputError, unknown_name
from lineament.files.writing import write_bytes
from lineament.records import Record
from lineament.report.sections.registry import by_target, sections_of, sources_of
from lineament.report.series import Picture
from lineament.report.sparse import worth_drawing
from lineament.report.svg.png import png
from lineament.report.svg.standalone import standalone
from lineament.report.sweep.claim_grid import claim_grids
from lineament.report.sweep.pictures import claim_pictures

# Name of a figure -> target -> what is drawn.
Pictures = Mapping[str, Mapping[str, Picture]]


@dataclass(frozen=True, repr=False)
class Figure:
    """A figure of a report, with title, legend and caption: notebooks show it, `save` keeps it.

    Attributes:
        picture: what is drawn, with every value.
    """

    picture: Picture

    @property
    def title(self) -> str:
        """What it shows, in a sentence."""
        return self.picture.title

    @property
    def caption(self) -> str:
        """How it is read."""
        return self.picture.caption

    @property
    def svg(self) -> str:
        """The whole as SVG, with values under the pointer."""
        return standalone(self.picture)

    def save(self, path: Path | str) -> Path:
        """Write the figure as SVG or PNG, which the name's end says; return where.

        Raises:
            InputError: the name ends otherwise, or a PNG cannot be made here (`lineament[figures]`).
            LineamentError: the disk refuses to write.
        """
        file = Path(path)
        if file.suffix not in (".svg", ".png"):
            raise InputError(f"{file} has to end in .svg or .png, which say how a figure is saved.")
        write_bytes(file, png(self.picture) if file.suffix == ".png" else self.svg.encode())
        return file

    def __repr__(self) -> str:
        """Say what it shows."""
        return f"Figure {self.title!r}"

    def _repr_html_(self) -> str:
        """Return the SVG, which notebooks show."""
        return self.svg


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


def named_figure(pictures: Pictures, name: str, target: str | None) -> Figure:
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
    return Figure(of[chosen])
