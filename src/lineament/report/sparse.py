"""Pictures that are not worth drawing: empty panels are left out, and a single position is a table's."""

from __future__ import annotations

from dataclasses import replace

from lineament.report.series import Line, Matrix, Panel, Picture, Surface, Table, data_table, undefined_notes


def worth_drawing(picture: Picture) -> Picture | None:
    """Return a picture without its empty panels, and with a note on each; None where there is nothing to compare.

    A panel of numbers compares values at two positions at least, one of names also two series at one of them.
    """
    kept = [panel for panel in picture.panels if _has_values(panel)]
    if not any(_compares(panel) for panel in kept):
        return None
    if len(kept) == len(picture.panels):
        return picture
    empty = [panel for panel in picture.panels if not _has_values(panel)]
    return replace(picture, panels=kept, notes=[*picture.notes, *map(_why_empty, empty)])


def instead_of_drawing(picture: Picture) -> Table | None:
    """Return the values of a picture that is not drawn, as a table under its title; None where it has none."""
    if not any(map(_has_values, picture.panels)):
        return None
    notes = [picture.caption, *picture.notes, *undefined_notes(picture)]
    return replace(data_table(picture), caption=picture.title, note=" ".join(notes))


def _has_values(panel: Panel | Matrix | Surface) -> bool:
    return any(map(_is_measured, panel.lines))


def _is_measured(line: Line) -> bool:
    return any(point.mean is not None for point in line.points)


def _compares(panel: Panel | Matrix | Surface) -> bool:
    if not isinstance(panel, Panel):
        return True
    own = [line for line in panel.lines if line.group != "reference" and _is_measured(line)]
    positions = {x for line in own for x, point in zip(line.x, line.points, strict=True) if point.mean is not None}
    return len(positions) > 1 or (bool(panel.rows or panel.names) and len(own) > 1)


def _why_empty(panel: Panel | Matrix | Surface) -> str:
    reasons = dict.fromkeys(point.reason or "not measured" for line in panel.lines for point in line.points)
    return f"Not drawn: {panel.title}: {'; '.join(reasons)}."
