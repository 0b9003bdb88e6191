"""Claims about weight steps and steering vectors (protocol, section 6), from the records of `steering`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lineament.claims.evidence import Evidence, mean_or_none
from lineament.claims.intervals import Interval, over_seeds
from lineament.claims.verdict import Claim, above, clipped, interval_body, make_claim
from lineament.records import Label, Quantity

NAME = "steering"
# Between activations, whatever weights moved: it stands beside runs on adapters and on all weights.
PAPER_COSINE = 0.58
LEAST_COSINE, LEAST_RATIO = 0.3, 0.5


def step_matches_caa(e: Evidence) -> Claim | None:
    """One gradient step shifts activations along the CAA vector, beyond every null draw."""
    found = _best_cosines(e)
    if not found:
        return None
    known = {seed: f.value for seed, f in found.items() if f.value is not None}
    interval = clipped(over_seeds(list(known.values())), -1.0, 1.0)
    lead = _lead_over_nulls([f for f in found.values() if f.value is not None])
    dropped = [seed for seed in found if seed not in known]
    return make_claim(
        e,
        "step_matches_caa",
        interval,
        [above(lead, 0.0), above(interval, LEAST_COSINE)],
        "above all null draws, low > 0.3",
        "signed cosine of one gradient step's activation shift (Jacobian) with the CAA vector, at the best layer of "
        "each seed",
        unit="cosine",
        paper=PAPER_COSINE,
        null=mean_or_none(f.null for f in found.values() if f.value is not None and f.null is not None),
        undecided=_why_dropped(found, dropped) if dropped and len(known) < 2 else None,
        details={**_match_details(e), "minus_largest_null": interval_body(lead), "dropped_seeds": dropped},
    )


def step_steers(e: Evidence) -> Claim | None:
    """At equal disturbance of neutral text the step's shift has at least half of the CAA vector's effect."""
    kl = _budget(e)
    ratios, without = _best_ratios(e, kl), {seed: f for seed, f in _best_cosines(e).items() if f.value is None}
    if not ratios and not without:
        return None
    found = dict(sorted({**ratios, **without}.items()))
    known = {seed: f.value for seed, f in ratios.items() if f.value is not None and seed not in without}
    dropped = [seed for seed in found if seed not in known]
    # Where a vector cannot reach the budget its effect is unknown: to leave such seeds out is to select on the result.
    unreached = [seed for seed in dropped if seed not in without]
    interval = over_seeds(list(known.values()))
    return make_claim(
        e,
        "step_steers",
        interval,
        [above(interval, LEAST_RATIO)],
        "low > 0.5",
        "change of logit difference by the step's shift / by the CAA vector, at equal KL"
        f"{'' if kl is None else f' of {kl:g} nats per token'} on neutral text, at each seed's best layer",
        unit="ratio",
        null=mean_or_none(null for seed in known if (null := ratios[seed].null) is not None),
        undecided=_why_dropped(found, dropped) if unreached or (dropped and len(known) < 2) else None,
        details={**_effect_details(e, {seed: ratios[seed] for seed in known}, kl), "dropped_seeds": dropped},
    )


def is_true(figure: Quantity, label: str) -> bool:
    """Whether a yes-or-no label says yes, written as a truth value or as a word."""
    return str(figure.labels.get(label)) == "True"


def _figures(e: Evidence, quantity: str, **labels: Label) -> dict[int, Quantity]:
    """Seed -> its first such figure, also one without a value."""
    found: dict[int, Quantity] = {}
    for (name, seed), record in sorted(e.records.items()):
        for figure in record.select(quantity, **labels) if name == NAME else ():
            found.setdefault(seed, figure)
    return found


def _best_cosines(e: Evidence) -> dict[int, Quantity]:
    return _figures(e, "best_layer_cosine", step="raw")


def _budget(e: Evidence) -> float | None:
    """The KL at which vectors are compared: the smallest where there are several."""
    return min((float(f.labels["kl"]) for r in e.records.values() for f in r.select("effect_ratio")), default=None)


def _best_ratios(e: Evidence, kl: float | None) -> dict[int, Quantity]:
    """Seed -> effect ratio at its best layer."""
    found: dict[int, Quantity] = {}
    for (name, seed), record in sorted(e.records.items()):
        for figure in record.select("effect_ratio") if name == NAME else ():
            if is_true(figure, "best") and figure.labels["kl"] == kl:
                found.setdefault(seed, figure)
    return found


def _lead_over_nulls(figures: list[Quantity]) -> Interval:
    """Cosine minus the largest null draw's: mean, and as ends the least and the largest over seeds.

    The rule asks for every seed, so these ends, and not an interval of the mean, are what must lie above 0.
    """
    leads = [f.value - f.null for f in figures if f.value is not None and f.null is not None]
    if not leads or len(leads) < len(figures):
        return over_seeds([])
    return Interval(sum(leads) / len(leads), min(leads), max(leads), len(leads), level=1.0)


def _why_dropped(found: Mapping[int, Quantity], dropped: list[int]) -> str:
    """Which seeds have no figure, by reason."""
    seeds: dict[str, list[str]] = {}
    for seed in dropped:
        seeds.setdefault((found[seed].reason or "undefined").rstrip("."), []).append(str(seed))
    return "; ".join(f"no figure in seed {', '.join(which)}: {why}" for why, which in seeds.items())


def _match_details(e: Evidence) -> dict[str, Any]:
    best = {seed: f for seed, f in _best_cosines(e).items() if f.value is not None}
    finite = _at(e, best, "step_cosine", step="raw", shift="finite")
    sizes = sorted({float(f.labels["size"]) for r in e.records.values() for f in r.select("linearity_cosine")})
    adam = [f.value for f in _figures(e, "best_layer_cosine", step="adam").values() if f.value is not None]
    return {
        "cosine_by_layer": {step: _by_layer(e, "step_cosine", step=step, shift="jacobian") for step in ("raw", "adam")},
        "best_layer": {str(seed): f.labels.get("layer") for seed, f in best.items()},
        "null_draws_below": {str(seed): f.labels.get("n_below") for seed, f in best.items()},
        "split_half_agreement": {str(s): value for s, value in _at(e, best, "split_half_agreement").items()},
        "adam_best_layer": mean_or_none(adam),
        "finite_shift": interval_body(clipped(over_seeds(list(finite.values())), -1.0, 1.0)),
        "linearity_by_size": {
            f"{size:g}": mean_or_none(_at(e, best, "linearity_cosine", size=size).values()) for size in sizes
        },
    }


def _effect_details(e: Evidence, ratios: Mapping[int, Quantity], kl: float | None) -> dict[str, Any]:
    if kl is None:
        return {}

    def means(quantity: str, **labels: Label) -> dict[str, float | None]:
        names = _label_values(e, quantity, "vector")
        return {v: mean_or_none(_at(e, ratios, quantity, vector=v, kl=kl, **labels).values()) for v in names}

    tasks = _label_values(e, "collateral_loss", "task")
    return {
        "kl": kl,
        "layer": {str(seed): f.labels.get("layer") for seed, f in ratios.items()},
        "effect": means("calibrated_effect"),
        "dose": means("calibrated_dose"),
        "collateral_accuracy": {task: means("collateral_accuracy", task=task) for task in tasks},
        "collateral_loss": {task: means("collateral_loss", task=task) for task in tasks},
        "ratio_by_layer": _by_layer(e, "effect_ratio", kl=kl),
    }


def _label_values(e: Evidence, quantity: str, label: str) -> list[str]:
    return sorted({str(f.labels[label]) for r in e.records.values() for f in r.select(quantity)})


def _at(e: Evidence, places: Mapping[int, Quantity], quantity: str, **labels: Label) -> dict[int, float]:
    """Seed -> a figure at the layer that another figure of this seed is from."""
    found = {}
    for seed, place in places.items():
        figures = e.records[NAME, seed].select(quantity, **labels, layer=place.labels["layer"])
        values = [f.value for f in figures if f.value is not None]
        if len(values) == 1:
            found[seed] = values[0]
        elif values:  # several random directions, whose signs mean nothing
            found[seed] = sum(map(abs, values)) / len(values)
    return found


def _by_layer(e: Evidence, quantity: str, **labels: Label) -> dict[str, float | None]:
    """Layer -> mean over seeds."""
    layers = sorted({int(f.labels["layer"]) for r in e.records.values() for f in r.select(quantity, **labels)})
    return {str(layer): mean_or_none(e.per_seed(NAME, quantity, layer=layer, **labels).values()) for layer in layers}
