"""Tables of random search: local geometry, signs of curvature, transfer to fresh data, where predictions end."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.records import Quantity, Record, is_told
from lineament.report.estimates import (
    estimate,
    estimate_geometric,
    estimate_values,
    label_texts,
    null_of,
    nulls_of,
    select,
    values_of,
)
from lineament.report.sections.random_search.spaces import WHOLE_SPACE, space_label, spaces
from lineament.report.series import Table
from lineament.report.words import POINTS

# As the measurement: below this, a figure has no sign.
POINT_PREDICTIONS = {"linear": "linear", "second_order": "second order", "flat": "many flat directions"}
GEOMETRY = {
    "gradient_norm": "|g|",
    "trace": "tr H",
    "along_gradient": "ĝᵀHĝ",
    "frobenius_norm": "|H|_F",
    "best_sigma": "best sigma",
}


def departure_table(sources: Sequence[Record]) -> Table | None:
    """Tabulate the step at which the gain leaves the linear prediction, beside the one that curvature predicts."""
    names = [name for name in spaces(sources) if select(sources, "departure_sigma", space=name)]
    if not names:
        return None
    rows = []
    for name in names:
        departures = select(sources, "departure_sigma", space=name)
        sigma, expected = estimate_geometric(values_of(departures)), estimate_geometric(nulls_of(departures))
        leaves = sigma.text if sigma.n_seeds else "in no seed"
        rows.append((space_label(name), leaves, _missing(departures), expected.text))
    columns = ("drawn in", "leaves at sigma", "seeds without", "curvature should take away or add 10 % at sigma")
    note = (
        "Sigma is the standard deviation of a draw per parameter: the one at which gain / linear prediction first "
        "differs from 1 by more than 10 %, interpolated between measured steps. Geometric mean and 95 % interval over "
        "seeds."
    )
    return Table("Where the linear prediction ends, and where curvature says it should", columns, rows, note)


def point_table(sources: Sequence[Record]) -> Table | None:
    """Tabulate, for points of the recovery, the sign of tr H in words and the gain over each prediction."""
    points = label_texts(sources, "point_trace", "point")
    if not points:
        return None
    rows = []
    for point in points:
        traces = select(sources, "point_trace", point=point)
        ratios = [
            _or_reason(select(sources, "point_ratio", point=point, prediction=prediction))
            for prediction in POINT_PREDICTIONS
        ]
        rows.append((POINTS.get(point, point), _sign(traces), estimate(traces, fraction=False).text, *ratios))
    columns = ("point", "curvature", "tr H", *(f"gain / {label}" for label in POINT_PREDICTIONS.values()))
    note = (
        "In the whole space, at the step where curvature should change the gain by 10 %. tr H in nats per unit "
        "squared; a ratio of 1 is a right prediction; mean and 95 % interval over seeds."
    )
    return Table("Curvature as the model recovers, and how good the predictions are", columns, rows, note)


def transfer_table(sources: Sequence[Record]) -> Table | None:
    """Tabulate the gain on fresh data of the draw that won on a batch, beside the gain on that batch."""
    names = label_texts(sources, "transferred_gain", "space")
    if not names:
        return None
    rows = []
    for name in sorted(names, key=lambda name: name != WHOLE_SPACE):
        transferred = select(sources, "transferred_gain", space=name)
        ratio = select(sources, "transfer_ratio_to_prediction", space=name)
        gains = estimate(transferred, fraction=False).text, null_of(transferred).text
        rows.append((space_label(name), *gains, estimate(ratio, fraction=False).text))
    columns = ("drawn in", "gain on fresh data", "null: on the batch that chose", "fresh gain / prediction")
    note = (
        "The best of N is chosen on one batch and scored on examples that played no part in the choice. Prediction: "
        "sigma m_N ⟨g, g_b⟩ / |g_b|. Gains in nats per target token; mean and 95 % interval over seeds."
    )
    return Table("Does the winner win on fresh data?", columns, rows, note)


def density_table(sources: Sequence[Record]) -> Table | None:
    """Tabulate signal density with its null, and enrichment over the whole space."""
    names = label_texts(sources, "density", "subspace")
    if not names:
        return None
    rows = []
    for name in names:
        densities = select(sources, "density", subspace=name)
        enrichments = select(sources, "enrichment", subspace=name)
        ranks = sorted({int(density.labels["rank"]) for density in densities})
        columns_of = values_of(densities), nulls_of(densities), values_of(enrichments)
        cells = [estimate_geometric(column).text for column in columns_of]
        rows.append((space_label(name), ", ".join(map(str, ranks)), *cells))
    columns = ("subspace", "rank", "signal density", "null: of another task", "over the whole space's")
    note = (
        "|Uᵀg|² / k in squared nats per unit squared; the last column is its ratio to |g|² / n_params "
        "(1: no more than a random subspace). Geometric means; 95 % interval over seeds."
    )
    return Table("Signal density of subspaces", columns, rows, note)


def geometry_table(sources: Sequence[Record]) -> Table | None:
    """Tabulate gradient norm and curvature at the damaged point, which all predictions use."""
    names = [name for name in spaces(sources) if select(sources, "gradient_norm", space=name)]
    if not names:
        return None
    rows = [
        (space_label(name), *(_or_reason(select(sources, quantity, space=name)) for quantity in GEOMETRY))
        for name in names
    ]
    note = (
        "At the damaged point, on the batch that draws are scored on. |g| in nats per unit, curvature in nats per unit "
        "squared. tr H is estimated from random probes in the whole space and exact elsewhere."
    )
    return Table("Gradient and curvature used by the predictions", ("drawn in", *GEOMETRY.values()), rows, note)


def _sign(traces: Sequence[Quantity]) -> str:
    """Return the sign of tr H over seeds, in words; a seed whose tr H is within 3 standard errors of 0 has none."""
    told = [t.value for t in traces if t.value is not None and is_told(abs(t.value), t.stderr or 0.0)]
    n, negative = len(values_of(traces)), sum(value < 0 for value in told)
    if not n:
        return "not measured"
    if not told:
        return "not told from zero"
    if len(told) == n and negative in (0, n):
        return "negative: adds to the gain" if negative else "positive: takes from the gain"
    unknown = f", not told from zero in {n - len(told)}" if len(told) < n else ""
    return f"negative (adds to the gain) in {negative} of {n} seeds{unknown}"


def _missing(quantities: Sequence[Quantity]) -> str:
    reasons = [quantity.reason or "undefined" for quantity in quantities if quantity.value is None]
    return "; ".join(f"{reasons.count(why)} of {len(quantities)}: {why}" for why in dict.fromkeys(reasons)) or "none"


def _or_reason(quantities: Sequence[Quantity]) -> str:
    """Return the estimate over the seeds that have a value, or why no seed has one."""
    known = values_of(quantities)
    if known:
        return estimate_values(known, fraction=False).text
    return "; ".join(sorted({quantity.reason for quantity in quantities if quantity.reason})) or "not measured"
