"""A composition as a record, from which its report is made.

Data sets and adapters are `first` and `second`; the quantities `adapter` and `examples` carry their names. Ends of
bootstrap intervals have the label `end`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from lineament.merging.figures import (
    KEPT,
    N_BOOTSTRAP,
    NOT_FINITE,
    DataFigures,
    Figure,
    ForetoldFigures,
    Of,
    Resampled,
    figure,
)
from lineament.merging.foretold import Beside, Prediction
from lineament.merging.interference import Composition, Source
from lineament.merging.order import Kappa, chance_of_larger
from lineament.merging.scales import best_scales
from lineament.problems.problem import Problem
from lineament.records import Label, Quantity, Record
from lineament.settings.plain import digest
from lineament.vectors.adapter_algebra import adapter_cosine, adapter_norm

NAME = "composition"
SIDES = ("first", "second")
CURVATURES = (("first", "first"), ("first", "second"), ("second", "second"))
NATS = "nats per target token"
# What is foretold at scales of 1 -> the quantity that holds it.
FIGURES: Mapping[Of, str] = {"interference": "interference_at_one", "cost": "cost"}
# Kind of a predicted figure -> where the curvature behind it was measured.
SOURCES: Mapping[str, Source] = {"predicted": "base", "both": "both"}
_INTERVAL = f"interval: {N_BOOTSTRAP} bootstrap draws of the data set's examples; base, adapters and grid are fixed"
DEFINITIONS: Mapping[str, str] = {
    "adapter": "Frobenius norm of dW = scale B A over all modules; null of the cosine: 0",
    "cosine": "cosine of the two adapters' dW, whatever factors give them",
    "examples": "examples of a data set, half of which choose scales",
    "loss": f"mean loss of the base with s A + t B added in dW; {_INTERVAL}",
    "slope": "g'A or g'B: derivative of the loss by the adapter's scale at the base",
    "curvature": "A'HA, A'HB, B'HB at the base, from one Hessian-vector product for each adapter",
    "cost": "loss with A + B minus that with the data set's own adapter alone; predicted: slope and half the curvature "
    f"by the other adapter's scale, at the own one; {_INTERVAL}",
    "interference": "I(s, t) = L(theta + s A + t B) - L(theta + s A) - L(theta + t B) + L(theta); predicted: s t A'HB "
    "at the base; both: with A'HB half-way to s A + t B, on the line between the base and half-way to A + B",
    "interference_at_one": "I(1, 1); predicted: A'HB at the base; middle: A'HB at theta + A / 2 + B / 2, which is "
    f"I(1, 1) but for terms of fourth order; {_INTERVAL}",
    "prediction_error": "what is foretold minus what is measured at scales of 1, of the interference or of the cost; "
    + _INTERVAL,
    "null_draw": "the figure (value, or error of its prediction) at scales of 1 with an adapter replaced by one of the "
    "same singular values, module by module, and random singular vectors: B for interference, the other than the data "
    "set's own for a cost; one for each draw",
    "null_size": "median size of the null's draws, each with the sign that it has on all examples; " + _INTERVAL,
    "null_rank": "share of the null's draws that are smaller in size than the figure, signs kept alike; " + _INTERVAL,
    "agreement": "correlation of predicted with measured interference over the pairs of scales of the grid",
    "holds_up_to": "largest scale c along s = t up to which I(c, c) is within 10 % of what is predicted, interpolated; "
    + _INTERVAL,
    "keeps_up_to": f"largest scale c along s = t up to which c A + c B keeps at least {KEPT:.0%} of what the data "
    f"set's own adapter gains alone at c, interpolated; {_INTERVAL}",
    "kept": "share of what the data set's own adapter gains alone at scale c that c A + c B keeps",
    "best_scale": "scales with the lowest mean of both data sets' validation losses, on the grid",
    "best_loss": "held-out loss at these scales, at (1, 1), and with the data set's own adapter alone at 1",
    "best_gain": f"held-out loss at (1, 1) minus that at the best scales, mean of both data sets; {_INTERVAL}",
    "kappa": "|H_b g_a - H_a g_b| / |g_a + g_b| at the base, by the weights that the adapters change: what the order "
    "of two steps changes per unit of step size, plain and with gradients of length 1; null: two batches of one data "
    "set",
    "kappa_chance": "share of all ways to share the eight batches out in four and four in which mean kappa between the "
    "groups exceeds that within them by at least as much as between and within the data sets",
}


@dataclass(frozen=True)
class About:
    """What a composition is of, for its record.

    Attributes:
        adapters, data: names of A and B, and of their data.
        why_no_order: why kappa was not measured, where it was not.
    """

    adapters: tuple[str, str]
    data: tuple[str, str]
    kappas: Sequence[Kappa] = ()
    why_no_order: str = ""
    config: Mapping[str, Label] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Both adapters."""
        return " and ".join(self.adapters)


def composition_record(composition: Composition, problem: Problem, about: About) -> Record:
    """Return all figures of a composition.

    Args:
        problem: whose model the base was.
    """
    figures = [*_adapters(composition, about), *_best(composition), *_order(about)]
    for data in range(2):
        own = DataFigures(composition, data)
        figures += [*_foretold(own.foretold, about), *_measured(own)]
    config = {**about.config, "scales": list(composition.scales), "seed": composition.seed}
    return _record(composition, problem, about, figures, config)


def prediction_record(prediction: Prediction, problem: Problem, about: About) -> Record:
    """Return all figures of what was foretold alone; a record of a composition that lacks what is measured."""
    figures = [*_adapters(prediction, about), *_order(about)]
    for data, foretold in enumerate(prediction.foretold):
        figures += _foretold(ForetoldFigures(foretold, data, prediction.seed), about)
    return _record(prediction, problem, about, figures, {**about.config, "scales": [], "seed": prediction.seed})


def _record(
    found: Composition | Prediction,
    problem: Problem,
    about: About,
    figures: Sequence[Quantity],
    config: Mapping[str, object],
) -> Record:
    names = {figure.name for figure in figures}
    return Record(
        measurement=NAME,
        target=about.title,
        seed=found.seed,
        problem=problem.name,
        model=problem.model_name,
        space="lora_effective",
        n_params=sum(len(f.b) * f.a.shape[1] for one in found.adapters for f in one.factors.values()),
        config_hash=digest(dict(config)),
        quantities=tuple(figures),
        definitions={name: text for name, text in DEFINITIONS.items() if name in names},
    )


def with_ends(name: str, found: Figure, unit: str, labels: Mapping[str, Label]) -> Iterator[Quantity]:
    """Yield a figure, and its interval's ends as quantities with the label `end`."""
    stderr = found.stderr if found.value is not None else None
    yield Quantity(name, found.value, unit, stderr=stderr, labels=labels, reason=found.reason)
    for end, value in (("low", found.low), ("high", found.high)):
        if value is not None:
            yield Quantity(name, value, unit, labels={**labels, "end": end})


def _adapters(composition: Composition | Prediction, about: About) -> Iterator[Quantity]:
    for side, name, adapter in zip(SIDES, about.adapters, composition.adapters, strict=True):
        yield Quantity("adapter", adapter_norm(adapter), "weight units", labels={"adapter": side, "name": name})
    yield Quantity("cosine", adapter_cosine(*composition.adapters), "cosine", null=0.0)


def _foretold(figures: ForetoldFigures, about: About) -> Iterator[Quantity]:
    """Yield what derivatives say on one data set, each prediction beside its null."""
    side = SIDES[figures.data]
    data: dict[str, Label] = {"data": side}
    examples = float(figures.foretold.n_examples)
    yield Quantity("examples", examples, "examples", labels={**data, "name": about.data[figures.data]})
    for place, adapter in enumerate(SIDES):
        yield from with_ends("slope", figures.slope(place), NATS, {**data, "adapter": adapter})
    for place, (one, other) in enumerate(CURVATURES):
        labels = {**data, "adapter": one, "other": other}
        yield from with_ends("curvature", figures.curvature(place), NATS, labels)
    for of, kind, beside in figures.predictions():
        yield from with_ends(FIGURES[of], figures.mean(beside.own), NATS, {**data, "kind": kind})
        yield from _null(figures, beside, {**data, "of": of, "what": "value", "kind": kind})


def _measured(figures: DataFigures) -> Iterator[Quantity]:
    """Yield what losses say on one data set, and how far predictions are off."""
    composition = figures.composition
    data: dict[str, Label] = {"data": SIDES[figures.data]}
    for row, s in enumerate(composition.scales):
        for column, t in enumerate(composition.scales):
            found = figures.loss(row, column)
            at = {**data, "s": s, "t": t}
            yield Quantity("loss", found.value, NATS, stderr=found.stderr, labels=at, reason=found.reason)
    yield from _interference(figures, data)
    yield from _errors(figures, data)
    for kind, source in SOURCES.items():
        labels = {**data, "kind": kind}
        yield from with_ends("agreement", figures.agreement(source), "correlation", labels)
        found, censored = figures.holds_up_to(source)
        yield from with_ends("holds_up_to", found, "scale", {**labels, "censored": int(censored)})
    found, censored = figures.keeps_up_to()
    yield from with_ends("keeps_up_to", found, "scale", {**data, "censored": int(censored)})
    yield from (
        Quantity("kept", share, "fraction", labels={**data, "scale": size}, reason=_why_not_kept(share))
        for size, share in zip(*figures.kept(), strict=True)
    )


def _why_not_kept(share: float) -> str | None:
    return "the gain of the adapter alone is not told from 0" if math.isnan(share) else None


def _interference(figures: DataFigures, data: Mapping[str, Label]) -> Iterator[Quantity]:
    composition = figures.composition
    kinds = {kind: composition.predicted(figures.data, source) for kind, source in SOURCES.items()}
    kinds["measured"] = composition.measured(figures.data)
    for row, s in enumerate(composition.scales[1:], 1):
        for column, t in enumerate(composition.scales[1:], 1):
            for kind, values in kinds.items():
                labels = {**data, "kind": kind, "s": s, "t": t}
                yield Quantity("interference", float(values[row, column]), NATS, labels=labels)
    for of, name in FIGURES.items():
        measured, labels = figures.measured(of), {**data, "of": of, "what": "value", "kind": "measured"}
        yield from with_ends(name, figures.foretold.mean(measured.own, NOT_FINITE), NATS, {**data, "kind": "measured"})
        yield from _null(figures.foretold, measured, labels)


def _errors(figures: DataFigures, data: Mapping[str, Label]) -> Iterator[Quantity]:
    """Yield by how much each prediction is off, beside the same for the null's draws."""
    for of, kind, beside in figures.foretold.predictions():
        off = beside - figures.measured(of)
        error = figures.foretold.mean(off.own, NOT_FINITE)
        yield from with_ends("prediction_error", error, NATS, {**data, "of": of, "kind": kind})
        yield from _null(figures.foretold, off, {**data, "of": of, "what": "error", "kind": kind})


def _null(figures: ForetoldFigures, beside: Beside, labels: Mapping[str, Label]) -> Iterator[Quantity]:
    """Yield the draws of a figure's null, their median size, and how many are smaller than the figure."""
    for draw, value in enumerate(beside.draws.mean(dim=-1).tolist()):
        reason = None if math.isfinite(value) else NOT_FINITE
        yield Quantity("null_draw", value, NATS, labels={**labels, "draw": draw}, reason=reason)
    yield from with_ends("null_size", figures.resampled.null_size(beside), NATS, labels)
    yield from with_ends("null_rank", figures.resampled.null_rank(beside), "fraction", labels)


def _best(composition: Composition) -> Iterator[Quantity]:
    best, at = best_scales(composition), composition.one
    for side, scale in zip(SIDES, (best.first, best.second), strict=True):
        reason = "at the edge of the grid" if best.at_edge else None
        yield Quantity("best_scale", scale, "scale", labels={"adapter": side}, reason=reason)
    gains = []
    for data, (side, meeting) in enumerate(zip(SIDES, composition.meetings, strict=True)):
        held_out = meeting.grid[..., ~meeting.validation]
        resampled = Resampled.of(held_out.shape[-1], composition.seed, f"held out {side}")
        alone = held_out[at, 0] if data == 0 else held_out[0, at]
        shown = {"best": held_out[best.place], "one": held_out[at, at], "alone": alone, "base": held_out[0, 0]}
        for which, losses in shown.items():
            yield from with_ends("best_loss", figure(resampled.means(losses)), NATS, {"data": side, "at": which})
        gains.append(resampled.means(held_out[at, at] - held_out[best.place]))
    yield from with_ends("best_gain", figure(torch.stack(gains).mean(dim=0)), NATS, {})


def _order(about: About) -> Iterator[Quantity]:
    if not about.kappas:
        reason = about.why_no_order or "it was not asked for"
        yield Quantity("kappa", None, "per step-size unit", labels={"pair": "between"}, reason=reason)
    for gradients in ("plain", "unit norm"):
        own = [(k.batches, k.plain if gradients == "plain" else k.unit_norm) for k in about.kappas]
        for kappa, (batches, value) in zip(about.kappas, own, strict=True):
            labels: dict[str, Label] = {"pair": kappa.pair, "first": batches[0], "second": batches[1]}
            yield Quantity("kappa", value, "per step-size unit", labels={**labels, "gradients": gradients})
        if own:
            yield Quantity("kappa_chance", chance_of_larger(own), "fraction", labels={"gradients": gradients})
