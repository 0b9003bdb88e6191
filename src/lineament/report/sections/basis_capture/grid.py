"""Captures over step size and kind of damage."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.records import Label, Record
from lineament.report.estimates import estimate, label_numbers, label_texts, select
from lineament.report.sections.bases import basis_label, group_of, style_of
from lineament.report.sections.basis_capture.captures import shown_rank
from lineament.report.series import Line, Panel, Picture

CAPTION = (
    "Captures at T for each kind of damage (panels) and step size. Differences between panels come from the recipe, "
    "not from the model."
)
NAME = "grid_capture"


def grid_pictures(records: Sequence[Record], rank: int) -> list[Picture]:
    """Draw captures over step size and kind of damage, one picture per definition; none if it was not measured."""
    sources = [record for record in records if any(quantity.name == NAME for quantity in record.quantities)]
    used = shown_rank(sources, NAME, rank)
    if used is None:
        return []
    pictures = []
    for definition in label_texts(sources, NAME, "definition"):
        panels = [
            _panel(sources, damage, {"definition": definition, "rank": used})
            for damage in label_texts(sources, NAME, "damage")
        ]
        title = f"How captures depend on damage and step size ({definition})"
        pictures.append(Picture(f"grid-{definition}", title, CAPTION, panels, sources))
    return pictures


def _panel(sources: Sequence[Record], damage: str, labels: dict[str, Label]) -> Panel:
    rates = label_numbers(sources, NAME, "lr")
    captures = {
        name: [
            estimate(select(sources, NAME, damage=damage, basis=name, lr=rate, **labels), fraction=True)
            for rate in rates
        ]
        for name in label_texts(sources, NAME, "basis")
    }
    lines = [
        Line(name, basis_label(name), group_of(name), style_of(name), rates, points)
        for name, points in captures.items()
    ]
    x_title, title = "step size of the recovery", f"damage: {damage.replace('_', ' ')}"
    return Panel(title, x_title, "captured (fraction)", lines, x_log=True, ticks=rates, x_name="step size")
