"""Training inside a subspace, and projecting onto it: the accuracy that either recovers."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.records import Label, Record
from lineament.report.estimates import Estimate, estimate, number, select
from lineament.report.sections.bases import basis_label, in_order, is_static
from lineament.report.sections.basis_capture.captures import shown_rank
from lineament.report.series import BLACK, BLUE, GREEN, GREY, VERMILLION, Line, Panel, Picture, Style, reference_line
from lineament.report.words import POINTS

RECOVER_CAPTION = (
    "Held-out accuracy of the damaged task. Dots: only the coordinates inside each subspace were "
    "trained, from the damaged point. Diamonds: the recovery's displacement was projected onto the "
    "subspace, without any training. Vertical lines: the damaged, the recovered and the trained "
    "model."
)


def recover_picture(sources: Sequence[Record], rank: int) -> Picture | None:
    """Accuracy after training only inside a subspace, and after projecting onto it, between the references."""
    used = shown_rank(sources, "trained_inside", rank)
    if used is None:
        return None
    rows = _recover_rows(sources, used)
    lines = [
        _dots(sources, rows, "trained_inside", "trained inside the subspace", Style(VERMILLION), -0.13),
        _dots(
            sources,
            rows,
            "projected",
            "projected onto it",
            Style(BLUE, symbol="diamond", open=True),
            0.13,
        ),
        *_references(sources, len(rows)),
    ]
    names = [name for name, _ in rows]
    title = f"accuracy at rank {used}"
    panel = Panel(title, "held-out accuracy (fraction)", "", lines, rows=names, x_name="subspace")
    return Picture("recover", _recover_title(sources, used, rows), RECOVER_CAPTION, [panel], sources)


def _recover_rows(sources: Sequence[Record], rank: int) -> list[tuple[str, dict[str, Label]]]:
    """(name, labels) of the rows: other bases, the best static of each seed, then statics if all were trained."""
    bases = in_order(dict.fromkeys(str(q.labels["basis"]) for q in select(sources, "trained_inside", rank=rank)))
    others = [name for name in bases if not is_static(name)]
    statics = [name for name in bases if is_static(name)]
    in_first = {str(q.labels["basis"]) for q in select(sources[:1], "trained_inside", rank=rank)}
    every = sum(map(is_static, in_first)) > 1
    rows: list[tuple[str, dict[str, Label]]] = [(basis_label(name), {"basis": name, "rank": rank}) for name in others]
    # In some seeds it may be a basis of fewer directions, whose own rank is lower.
    rows.insert(1, ("best fixed plane (per seed)", {"role": "best_static", "for_rank": rank}))
    return rows + ([(basis_label(name), {"basis": name, "rank": rank}) for name in statics] if every else [])


def _dots(
    sources: Sequence[Record],
    rows: list[tuple[str, dict[str, Label]]],
    quantity: str,
    label: str,
    style: Style,
    shift: float,
) -> Line:
    def point(labels: dict[str, Label]) -> Estimate:
        return estimate(select(sources, quantity, statistic="accuracy", **labels), fraction=True)

    places = [i + shift for i in range(len(rows))]
    return Line(quantity, label, "subspace", style, places, [point(labels) for _, labels in rows], mode="dots")


def _references(sources: Sequence[Record], rows: int) -> list[Line]:
    looks = {"broken": Style(GREY, "dot"), "recovered": Style(GREEN, "dash"), "star": Style(BLACK, width=1.5)}
    lines = []
    for point, style in looks.items():
        found = estimate(select(sources, "reference", point=point, statistic="accuracy"), fraction=True)
        if found.mean is not None:
            label = f"{POINTS[point]} model ({number(found.mean)})"
            lines.append(reference_line(f"reference-{point}", label, [-0.45, rows - 0.55], found, style))
    return lines


def _recover_title(sources: Sequence[Record], rank: int, rows: list[tuple[str, dict[str, Label]]]) -> str:
    def inside(**labels: Label) -> float | None:
        found = select(sources, "trained_inside", statistic="accuracy", **labels)
        return estimate(found, fraction=True).mean

    prefix, static = inside(basis="prefix", rank=rank), inside(role="best_static", for_rank=rank)
    if prefix is None or static is None:
        return "What training inside a subspace can recover"
    start = f"Training only {rank} coordinates recovers an accuracy of {prefix:.2f} in the first updates' span"
    return f"{start}, {static:.2f} in the best fixed plane"
