"""Change of the logit difference by dose, and against the KL that it causes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lineament.records import Record
from lineament.report.estimates import Estimate, estimate, estimate_geometric, label_numbers, number, select, values_of
from lineament.report.sections.steering.effects import EFFECT, by_dose, calibrated, vectors
from lineament.report.sections.steering.layers import at_best, best_layer_text
from lineament.report.sections.steering.names import RANDOM, vector_label, vector_style
from lineament.report.series import GREY, Line, Panel, Picture, Style, vertical_range

CHANGE = "dose_logit_difference"
CAPTION = (
    "The unit vector times dose times |CAA| is added to the activations of one layer while the model reads held-out "
    "prompts. Up: the change in the mean logit difference, positive minus negative label. Left: at equal length. "
    "Right: against the KL divergence that the same dose causes on neutral text. A vector that steers better is "
    "further from 0 at the same KL. Dotted on the right: negative doses. Random directions have no sign of their own "
    "and are turned so that positive doses raise the logit difference. Bars: 95 % interval over seeds, cut at the "
    "edge where they are long; none for random directions."
)


def dose_picture(sources: Sequence[Record]) -> Picture | None:
    """Draw the change of the logit difference at the best layers, against the dose and against the KL it causes."""
    names = [name for name in vectors(sources, CHANGE) if at_best(sources, CHANGE, vector=name)]
    if not names:
        return None
    doses = label_numbers(sources, CHANGE, "dose")
    by_length = [_dose_line(sources, name, doses) for name in names]
    left = Panel("by dose", "dose (multiples of |CAA|)", EFFECT, by_length, fraction=False, x_name="dose")
    by_kl = [line for name in names for line in _kl_lines(sources, name, doses)]
    y_range = vertical_range([*by_length, *by_kl])
    panels = [replace(left, y_range=y_range)]
    if by_kl:
        lines, x_title = [*by_kl, *_budget_lines(sources, y_range)], "KL on neutral text (nats per token)"
        panels.append(Panel("by KL", x_title, EFFECT, lines, x_log=True, fraction=False, x_name="KL", y_range=y_range))
    notes = [*best_layer_text(sources), *_accuracy_text(sources)]
    return Picture("steering-dose", _title(sources, names), CAPTION, panels, sources, notes)


def _dose_line(sources: Sequence[Record], name: str, doses: list[float]) -> Line:
    points = [estimate(by_dose(sources, CHANGE, name, dose), fraction=False) for dose in doses]
    return Line(name, vector_label(name), "vectors", vector_style(name), doses, points, bars=name != RANDOM)


def _kl_lines(sources: Sequence[Record], name: str, doses: list[float]) -> list[Line]:
    """Return effect against KL, positive and negative doses apart: nothing lies between them on this axis."""
    up = [_at_dose(sources, name, dose) for dose in doses if dose > 0] + _at_budgets(sources, name)
    down = [_at_dose(sources, name, dose) for dose in doses if dose < 0]
    lines = []
    for pairs, style in ((up, vector_style(name)), (down, replace(vector_style(name), dash="dot", width=2.0))):
        known = sorted((pair for pair in pairs if pair is not None), key=lambda pair: pair[0])
        if known:
            x, points = [kl for kl, _ in known], [effect for _, effect in known]
            lines.append(Line(name, vector_label(name), "vectors", style, x, points, bars=name != RANDOM))
    return lines


def _at_dose(sources: Sequence[Record], name: str, dose: float) -> tuple[float, Estimate] | None:
    """Return (KL, effect) of a dose."""
    kl = estimate_geometric(values_of(by_dose(sources, "dose_kl", name, dose))).mean
    effect = estimate(by_dose(sources, CHANGE, name, dose), fraction=False)
    if kl is None or effect.mean is None:
        return None
    return kl, replace(effect, reason=f"dose {number(dose)}")


def _at_budgets(sources: Sequence[Record], name: str) -> list[tuple[float, Estimate] | None]:
    """Return (KL, effect) at the doses sought for equal KL; not of random directions, which are others there."""
    pairs: list[tuple[float, Estimate] | None] = []
    for kl in label_numbers(sources, "calibrated_dose", "kl") if name != RANDOM else ():
        effect = estimate(calibrated(sources, "calibrated_effect", name, None, kl), fraction=False)
        if effect.mean is not None:
            pairs.append((kl, replace(effect, reason="at equal KL")))
    return pairs


def _budget_lines(sources: Sequence[Record], y_range: tuple[float, float]) -> list[Line]:
    """Return upright lines at the KL where vectors are compared."""
    style, tall = Style(GREY, "dash", width=1.5), [Estimate(end) for end in y_range]
    return [
        Line(f"budget-{kl}", f"equal KL: {number(kl)}", "reference", style, [kl, kl], tall, mode="plain", tabled=0)
        for kl in label_numbers(sources, "calibrated_dose", "kl")
    ]


def _accuracy_text(sources: Sequence[Record]) -> list[str]:
    accuracies = select(sources, "task_accuracy")
    if not accuracies:
        return []
    return [f"Accuracy of the model itself on held-out examples: {estimate(accuracies, fraction=True).text}."]


def _title(sources: Sequence[Record], names: list[str]) -> str:
    parts = []
    for name in names:
        mean = estimate(by_dose(sources, CHANGE, name, 1.0), fraction=False).mean
        if mean is not None:
            parts.append(f"{number(mean)} along the {vector_label(name)}")
    if not parts:
        return "How steering changes the logit difference"
    return f"Dose 1 changes the logit difference by {', '.join(parts)} (nats)"
