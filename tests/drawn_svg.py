"""What is drawn in an SVG: its series, their marks, and what is said of them."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from lineament.report.series import Picture
from lineament.report.svg.standalone import standalone

NAMESPACE = "{http://www.w3.org/2000/svg}"


def parsed(text: str) -> ET.Element:
    return ET.fromstring(text)


def series(picture: Picture) -> list[ET.Element]:
    """The groups of all series that are shown, in every panel; entries of the legend have no colour of their own."""
    return [g for g in parsed(standalone(picture)).iter(f"{NAMESPACE}g") if g.get("data-key") and g.get("stroke")]


def one_series(picture: Picture, key: str) -> ET.Element:
    """The first group of a series."""
    return next(group for group in series(picture) if group.get("data-key") == key)


def hints(element: ET.Element) -> list[str]:
    """What is shown under the pointer."""
    return [title.text or "" for title in element.iter(f"{NAMESPACE}title")]


def barred(picture: Picture) -> set[str]:
    """Keys of series with bars."""
    return {group.get("data-key", "") for group in series(picture) if any(p.get("class") == "bars" for p in group)}


def marks(picture: Picture) -> int:
    """How many places tell their value under the pointer."""
    return sum(element.get("class") in ("pt", "felt") for element in parsed(standalone(picture)).iter())


def circles(group: ET.Element) -> list[tuple[float, float]]:
    """Middles of circles."""
    return [(float(c.get("cx", "")), float(c.get("cy", ""))) for c in group.iter(f"{NAMESPACE}circle")]
