"""Captures over step size and kind of damage."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lineament.records import Label, Record
from lineament.report.estimates import Estimate, estimate, label_numbers, label_texts, label_values, select
from lineament.report.sections.bases import basis_label, group_of, style_of
from lineament.report.sections.basis_capture.captures import shown_rank
from lineament.report.series import Line, Panel, Picture

GRID_CAPTION = (
    "Captures at T for each kind of damage (panels) and step size. Differences between panels come "
    "from the recipe, not from the model."
)


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
        pictures.append(Picture(f"grid-{definition}", title, GRID_CAPTION, panels, sources))
    return pictures


def _grid_panel(sources: Sequence[Record], damage: str, definition: str, rank: int) -> Panel:
    rates = label_numbers(sources, "grid_capture", "lr")
    names = label_texts(sources, "grid_capture", "basis")

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
    lines = [Line(name, basis_label(name), group_of(name), style_of(name), rates, make(name)) for name in names]
    x_title, title = "step size of the recovery", f"damage: {damage.replace('_', ' ')}"
    return Panel(title, x_title, "captured (fraction)", lines, x_log=True, ticks=rates, x_name="step size")
