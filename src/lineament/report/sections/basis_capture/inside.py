"""Training inside a subspace, and projecting onto it: the accuracy that either recovers."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.records import Label, Record
from lineament.report.estimates import Estimate, estimate, number, select
from lineament.report.sections.bases import basis_label, in_order, is_static
from lineament.report.sections.basis_capture.captures import shown_rank
from lineament.report.series import BLACK, BLUE, GREEN, GREY, VERMILLION, Line, Panel, Picture, Style, reference_line
from lineament.report.words import POINTS
from lineament.study.points import DAMAGED, RECOVERED, TRAINED

CAPTION = (
    "Held-out accuracy on the damaged task. Dots: only the coordinates inside each subspace were trained, from the "
    "damaged point. Diamonds: the recovery's displacement was projected onto the subspace, without any training. "
    "Vertical lines: the damaged, the recovered and the trained model."
)
INSIDE, PROJECTED = "trained_inside", "projected"
# Where training inside a subspace and projecting onto it stand in a row, apart from each other.
LOOKS = {
    INSIDE: ("trained inside the subspace", Style(VERMILLION), -0.13),
    PROJECTED: ("projected onto it", Style(BLUE, symbol="diamond", open=True), 0.13),
}
REFERENCES = {DAMAGED: Style(GREY, "dot"), RECOVERED: Style(GREEN, "dash"), TRAINED: Style(BLACK, width=1.5)}
Row = tuple[str, dict[str, Label]]


def recover_picture(sources: Sequence[Record], rank: int) -> Picture | None:
    """Draw the accuracy after training inside a subspace and after projecting onto it, between references."""
    used = shown_rank(sources, INSIDE, rank)
    if used is None:
        return None
    rows = _rows(sources, used)
    lines = [*(_dots(sources, rows, name) for name in LOOKS), *_references(sources, len(rows))]
    title, x_title = f"accuracy at rank {used}", "held-out accuracy (fraction)"
    panel = Panel(title, x_title, "", lines, rows=[label for label, _ in rows], x_name="subspace")
    return Picture("recover", _title(sources, used), CAPTION, [panel], sources)


def _rows(sources: Sequence[Record], rank: int) -> list[Row]:
    """Return the rows: other bases, the best static of each seed, then all statics if all were trained."""
    bases = in_order(dict.fromkeys(_bases(sources, rank)))
    rows: list[Row] = [(basis_label(name), {"basis": name, "rank": rank}) for name in bases if not is_static(name)]
    # In some seeds it may be a basis of fewer directions, whose own rank is lower.
    rows.insert(1, ("best fixed plane (per seed)", {"role": "best_static", "for_rank": rank}))
    if sum(map(is_static, set(_bases(sources[:1], rank)))) > 1:
        rows += [(basis_label(name), {"basis": name, "rank": rank}) for name in bases if is_static(name)]
    return rows


def _bases(sources: Sequence[Record], rank: int) -> list[str]:
    return [str(quantity.labels["basis"]) for quantity in select(sources, INSIDE, rank=rank)]


def _dots(sources: Sequence[Record], rows: Sequence[Row], name: str) -> Line:
    label, style, shift = LOOKS[name]
    points = [_accuracy(sources, name, labels) for _, labels in rows]
    return Line(name, label, "subspace", style, [i + shift for i in range(len(rows))], points, mode="dots")


def _accuracy(sources: Sequence[Record], name: str, labels: dict[str, Label]) -> Estimate:
    return estimate(select(sources, name, statistic="accuracy", **labels), fraction=True)


def _references(sources: Sequence[Record], n_rows: int) -> list[Line]:
    lines = []
    for point, style in REFERENCES.items():
        accuracy = _accuracy(sources, "reference", {"point": point})
        if accuracy.mean is not None:
            label = f"{POINTS[point]} model ({number(accuracy.mean)})"
            lines.append(reference_line(f"reference-{point}", label, [-0.45, n_rows - 0.55], accuracy, style))
    return lines


def _title(sources: Sequence[Record], rank: int) -> str:
    prefix = _accuracy(sources, INSIDE, {"basis": "prefix", "rank": rank}).mean
    static = _accuracy(sources, INSIDE, {"role": "best_static", "for_rank": rank}).mean
    if prefix is None or static is None:
        return "What training inside a subspace can recover"
    start = f"Training only {rank} coordinates recovers an accuracy of {prefix:.2f} in the span of the first updates"
    random = _accuracy(sources, INSIDE, {"basis": "control_random_times", "rank": rank}).mean
    control = "" if random is None else f", {random:.2f} in that of updates at random times"
    return f"{start}{control}, {static:.2f} in the best fixed plane"
