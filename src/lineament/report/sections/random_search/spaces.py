"""The spaces that random search draws in: their names, looks and cells."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.records import Quantity, Record
from lineament.report.estimates import label_integers, label_texts, select
from lineament.report.sections.bases import basis_label, style_of
from lineament.report.series import BLACK, Style

WHOLE_SPACE = "full"


def spaces(sources: Sequence[Record]) -> list[str]:
    """Return the names of the spaces that draws were made in, the whole space first."""
    names = label_texts(sources, "ratio_linear", "space")
    return sorted(names, key=lambda name: name != "full")


def space_label(name: str) -> str:
    """Return the readable name of a space that random search draws in."""
    return "whole space" if name == WHOLE_SPACE else basis_label(name)


def space_style(name: str) -> Style:
    """Return how a space that random search draws in is drawn."""
    return Style(BLACK, width=3.5) if name == WHOLE_SPACE else style_of(name)


def headline_count(sources: Sequence[Record]) -> int:
    """Return the N of the claims as the records label it; if they do not, the largest N with a ratio."""
    named = label_integers(sources, "departure_sigma", "n")
    return max(named or label_integers(sources, "ratio_linear", "n"))


def cells(sources: Sequence[Record], name: str, space: str, cost: float, n: int) -> list[Quantity]:
    return select(sources, name, space=space, cost=cost, n=n)
