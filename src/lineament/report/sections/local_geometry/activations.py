"""Whether activation shifts of two task vectors add up, against the scale at which they are applied."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.records import Label, Record
from lineament.report.estimates import (
    Estimate,
    estimate_geometric,
    estimate_known,
    label_numbers,
    label_texts,
    nulls_of,
    number,
    select,
)
from lineament.report.sections.local_geometry.pairs import near, seed_medians
from lineament.report.series import BLUE, GREY, ORANGE, VERMILLION, Line, Panel, Picture, Style, reference_line

NAME = "median_activation_defect"
SUMS = {"weights": "sum taken in dW", "factors": "sum taken in factors"}
OF = {"activation": "shift of activations", "logit": "shift of the logit"}
STYLES = {
    ("weights", "activation"): Style(BLUE, width=3),
    ("weights", "logit"): Style(BLUE, "dash", "square", open=True),
    ("factors", "activation"): Style(VERMILLION, symbol="diamond"),
    ("factors", "logit"): Style(VERMILLION, "dash", "diamond", open=True),
}
CAPTION = (
    "The task vectors of two tasks are added to the model at a scale lambda, alone and together. Up: the share by "
    "which the mean shift of the sum differs from the sum of the shifts, |s(a + b) - s(a) - s(b)| / (|s(a)| + "
    "|s(b)|), at two thirds of the depth, and of a probe's logit; the median over pairs. The sum is exact in dW; "
    "summed factors make another model. Null: the second task vector replaced by noise of the same norm in every "
    "tensor. Below the dotted line shifts count as adding up. Geometric means; bars: 95 % interval over seeds."
)


def activation_picture(sources: Sequence[Record]) -> Picture | None:
    """Draw the additivity defect of activation shifts against scale, with its null and noise floor."""
    scales = label_numbers(sources, NAME, "scale")
    if not scales:
        return None
    lines = [
        _line(sources, total, of, scales)
        for total in label_texts(sources, NAME, "sum")
        for of in label_texts(sources, NAME, "of")
        if select(sources, NAME, sum=total, of=of)
    ]
    main: dict[str, Label] = {"sum": "weights", "of": "activation"}
    nulls = [estimate_geometric([n for n in nulls_of(select(sources, NAME, scale=s, **main)) if n > 0]) for s in scales]
    lines.append(
        Line("null", "second vector replaced by noise", "null", Style(ORANGE, "dash", "x"), scales, nulls, bars=False)
    )
    halves = [_halves(sources, scale, main) for scale in scales]
    floor = Style(GREY, "dash", "square", open=True)
    lines.append(Line("halves", "noise: halves of the prompts", "reference", floor, scales, halves, bars=False))
    lines.append(reference_line("tenth", "0.1", [scales[0], scales[-1]], Estimate(0.1), Style(GREY, "dot")))
    lines = [line for line in lines if any(point.mean is not None for point in line.points)]
    panel = Panel("", "scale lambda", "additivity defect (fraction)", lines, x_log=True, y_log=True, fraction=False,
                  ticks=scales, x_name="scale")  # fmt: skip
    return Picture("geometry-activations", _title(sources), CAPTION, [panel], sources)


def _line(sources: Sequence[Record], total: str, of: str, scales: Sequence[float]) -> Line:
    found = [select(sources, NAME, sum=total, of=of, scale=scale) for scale in scales]
    points = [estimate_known(own, [q.value if q.value and q.value > 0 else None for q in own]) for own in found]
    label = f"{OF.get(of, of)}, {SUMS.get(total, total)}"
    style = STYLES.get((total, of), Style(GREY))
    return Line(f"{total}-{of}", label, "defect", style, scales, points, bars=(total, of) == ("weights", "activation"))


def _halves(sources: Sequence[Record], scale: float, main: dict[str, Label]) -> Estimate:
    medians = seed_medians(sources, "activation_defect_halves", scale=scale, **main)
    return estimate_geometric([value for value in medians if value > 0])


def _title(sources: Sequence[Record]) -> str:
    ends = []
    for scale in (0.1, 1.0):
        at = near(sources, NAME, "scale", scale)
        values = [q.value for q in select(sources, NAME, sum="weights", of="activation", **at) if q.value]
        point = estimate_geometric(values).mean
        ends.append(None if point is None else f"{number(point)} at scale {number(float(at['scale']))}")
    if None in ends:
        return "Whether activation shifts of two task vectors add up"
    return f"Activation shifts of two task vectors miss their sum by {' and '.join(map(str, ends))}"
