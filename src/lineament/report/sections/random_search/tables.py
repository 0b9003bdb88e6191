"""Tables of random search: local geometry, signs of curvature, transfer to fresh data, where predictions end."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.records import Quantity, Record
from lineament.report.estimates import estimate, estimate_geometric, label_texts, null_of, select
from lineament.report.sections.random_search.spaces import space_label, spaces
from lineament.report.series import Table

SEARCH_POINTS = {"broken": "damaged", "half recovered": "half-way through the recovery", "star": "trained"}
POINT_PREDICTIONS = {"linear": "linear", "second_order": "second order", "flat": "many flat directions"}
GEOMETRY = {
    "gradient_norm": "|g|",
    "trace": "tr H",
    "along_gradient": "ĝᵀHĝ",
    "frobenius_norm": "|H|_F",
    "best_sigma": "best sigma",
}


def departure_table(sources: Sequence[Record]) -> Table | None:
    """Per space: the step at which the gain leaves the linear prediction, beside the one that curvature predicts."""
    names = [name for name in spaces(sources) if select(sources, "departure_sigma", space=name)]
    if not names:
        return None
    rows = []
    for name in names:
        found = select(sources, "departure_sigma", space=name)
        nulls = estimate_geometric([f.null for f in found if f.null is not None])
        known = estimate_geometric([f.value for f in found if f.value is not None])
        leaves = known.text if known.n_seeds else "in no seed"
        rows.append((space_label(name), leaves, _missing(found), nulls.text))
    columns = ("drawn in", "leaves at sigma", "seeds without", "curvature should take or add 10 % at sigma")
    note = (
        "Sigma at which gain / linear prediction is first off by more than 10 %, interpolated between measured steps. "
        "Per parameter; geometric mean and 95 % interval over seeds."
    )
    return Table("Where the linear prediction ends, and where curvature says it should", columns, rows, note)


def point_table(sources: Sequence[Record]) -> Table | None:
    """Per point of the recovery: sign of tr H in words, and gain over each prediction."""
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
        rows.append((SEARCH_POINTS.get(point, point), _sign(traces), estimate(traces, fraction=False).text, *ratios))
    columns = ("point", "curvature", "tr H", *(f"gain / {label}" for label in POINT_PREDICTIONS.values()))
    note = (
        "In the whole space, at the step where curvature should change the gain by 10 %. tr H in nats per unit "
        "squared; 1 is a right prediction; mean and 95 % interval over seeds."
    )
    return Table("Curvature while the model heals, and how the predictions fare", columns, rows, note)


def transfer_table(sources: Sequence[Record]) -> Table | None:
    """Per space: gain on fresh data of the draw that won on a batch, beside the gain on that batch."""
    names = label_texts(sources, "transferred_gain", "space")
    if not names:
        return None
    rows = []
    for name in sorted(names, key=lambda name: name != "full"):
        found = select(sources, "transferred_gain", space=name)
        ratio = select(sources, "transfer_ratio_to_prediction", space=name)
        gains = estimate(found, fraction=False).text, null_of(found).text
        rows.append((space_label(name), *gains, estimate(ratio, fraction=False).text))
    columns = ("drawn in", "gain on fresh data", "null: on the batch that chose", "fresh gain / prediction")
    note = (
        "The best of N is chosen on one batch and scored on examples it never saw. Prediction: "
        "sigma m_N ⟨g, g_b⟩ / |g_b|. Gains in nats per target token; mean and 95 % interval over seeds."
    )
    return Table("Does the winner win on fresh data?", columns, rows, note)


def density_table(sources: Sequence[Record]) -> Table | None:
    """Per subspace: signal density with its null, and enrichment over the whole space."""
    names = label_texts(sources, "density", "subspace")
    if not names:
        return None
    rows = []
    for name in names:
        found, enriched = select(sources, "density", subspace=name), select(sources, "enrichment", subspace=name)
        ranks = sorted({int(f.labels["rank"]) for f in found})
        columns_of = [f.value for f in found], [f.null for f in found], [f.value for f in enriched]
        values = [estimate_geometric([v for v in column if v is not None]).text for column in columns_of]
        rows.append((space_label(name), ", ".join(map(str, ranks)), *values))
    columns = ("subspace", "rank", "signal density", "null: of another task", "over the whole space's")
    note = (
        "|Uᵀg|² / k in squared nats per unit squared; the last column is its ratio to |g|² / n_params "
        "(1: no more than a random subspace). Geometric means; 95 % interval over seeds."
    )
    return Table("Signal density of subspaces", columns, rows, note)


def geometry_table(sources: Sequence[Record]) -> Table | None:
    """Per space: gradient norm and curvature at the damaged point, which all predictions use."""
    names = [name for name in spaces(sources) if select(sources, "gradient_norm", space=name)]
    if not names:
        return None
    rows = [
        (space_label(name), *(_or_reason(select(sources, quantity, space=name)) for quantity in GEOMETRY))
        for name in names
    ]
    note = (
        "At the damaged point, on the batch that draws are scored on: nats, per unit of parameter for |g|, per unit "
        "squared for curvature. tr H in the whole space by random probes, elsewhere exact."
    )
    return Table("Gradient and curvature that the predictions use", ("drawn in", *GEOMETRY.values()), rows, note)


def _sign(traces: Sequence[Quantity]) -> str:
    """Sign of tr H over seeds, in words."""
    values = [f.value for f in traces if f.value is not None]
    negative = sum(value < 0 for value in values)
    if not values:
        return "not measured"
    if negative in (0, len(values)):
        return "negative: curvature helps" if negative else "positive: curvature costs"
    return f"negative (helps) in {negative} of {len(values)} seeds"


def _missing(found: Sequence[Quantity]) -> str:
    reasons = [f.reason or "undefined" for f in found if f.value is None]
    return "; ".join(f"{reasons.count(why)} of {len(found)}: {why}" for why in dict.fromkeys(reasons)) or "none"


def _or_reason(found: Sequence[Quantity]) -> str:
    """Over the seeds that have a value; why there is none where no seed has."""
    known = [f for f in found if f.value is not None]
    if known:
        return estimate(known, fraction=False).text
    return "; ".join(sorted({f.reason for f in found if f.reason})) or "not measured"
