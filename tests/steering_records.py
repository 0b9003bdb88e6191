"""Hand-made records of steering: cosines, effects and prices that follow a law, so that pictures can be judged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import sqrt

from lineament.records import Label, Quantity, Record

KL = 0.05
DOSES = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)
SIZES = (0.01, 0.1, 0.3, 1.0, 3.0)
# The layer of the best cosine per seed, and what is added to every cosine there; effects are multiplied by 1 + it.
SEEDS = ((3, 0.0), (3, 0.02), (2, -0.02))
PEAK, NULL = 0.6, 0.3
N_RANDOM, N_SHUFFLED = 24, 10
OTHER_TASKS = ("copy", "reverse")
N_DRAWS = N_RANDOM + N_SHUFFLED + len(OTHER_TASKS)
# Change of the logit difference, in nats per dose at the best layer, and KL at dose 1 over KL.
STRENGTH = {"caa": 2.0, "step": 1.5, "random": 0.1}
PRICE = {"caa": 16.0, "step": 16.0, "random": 64.0}
# Of the three random directions at equal KL; in the dose-response, of the one direction of each seed.
RANDOM_SIGNS = (1, -1, 1)
RATIO, RANDOM_RATIO = 0.75, (0.1 / sqrt(64.0)) / (2.0 / sqrt(16.0))
LAYERS = 4
UNREACHABLE = "unreachable: 0.01 nats per token at 32 times the CAA norm"


def steering_records(
    *,
    n_layers: int = LAYERS,
    peak: float = PEAK,
    null: float = NULL,
    step: float = STRENGTH["step"],
    words: bool = False,
) -> list[Record]:
    """Three seeds; the cosine with the CAA vector rises up to the best layer and is half as large beyond.

    Args:
        words: whether yes-or-no labels are written as words.
    """
    return [_record(seed, n_layers, peak + shift, null, step, words) for seed, (_, shift) in enumerate(SEEDS)]


def without_reference(seed: int = 0) -> Record:
    """What the measurement writes for a seed in which no CAA vector is a reference."""
    why = "no layer's CAA vector agrees with itself to 0.95"
    figures = [
        Quantity("best_layer_cosine", None, "cosine", labels={"step": kind}, reason=why) for kind in ("raw", "adam")
    ]
    figures += _reference(LAYERS, 0.8) + [
        Quantity(
            "step_cosine",
            0.1,
            "cosine",
            stderr=None,
            null=0.3,
            labels={"layer": layer, "step": "raw", "shift": "jacobian", "reference": False},
        )
        for layer in range(1, LAYERS + 1)
    ]
    return record(seed, figures)


def record(seed: int, figures: Sequence[Quantity]) -> Record:
    """A record of the measurement with these figures."""
    return Record(
        measurement="steering",
        target="sort",
        seed=seed,
        problem="synthetic",
        model="tiny",
        space="lora_factors",
        n_params=4000,
        config_hash="0" * 16,
        quantities=tuple(figures),
        definitions={figure.name: "made up" for figure in figures},
    )


def best_of(seed: int, n_layers: int = LAYERS) -> int:
    """The best layer of a seed; in deeper models at the same share of the depth."""
    return SEEDS[seed][0] * n_layers // LAYERS


def cosine_at(layer: int, best: int, peak: float) -> float:
    """Law of the gradient step's cosine."""
    return peak * layer / best if layer <= best else peak / 2


def effect_at(name: str, layer: int, best: int) -> float:
    """Law of the effect in nats per dose."""
    return STRENGTH[name] * min(layer, best) / best


def _record(seed: int, n_layers: int, peak: float, null: float, step: float, words: bool) -> Record:
    best, factor = best_of(seed, n_layers), 1 + SEEDS[seed][1]
    figures = [
        Quantity("task_accuracy", 0.9, "fraction"),
        *_reference(n_layers),
        *_cosines(n_layers, best, peak, null, words),
        *_draws(null),
        *_linearity(n_layers, best),
        *_doses(best, factor, RANDOM_SIGNS[seed]),
        *_calibrated(n_layers, best, factor, step / STRENGTH["step"], words),
    ]
    return record(seed, figures)


def _reference(n_layers: int, agreement: float | None = None) -> list[Quantity]:
    """Halves disagree at the first layer only, unless told otherwise."""
    found = []
    for layer in range(1, n_layers + 1):
        which: dict[str, Label] = {"layer": layer}
        halves = agreement or (0.9 if layer == 1 else 0.99)
        found.append(Quantity("split_half_agreement", halves, "cosine", labels=which))
        found.append(Quantity("caa_norm", 2.0 * layer, "activation units", labels=which))
        found.append(Quantity("activation_rms_norm", 8.0, "activation units", labels=which))
        for method, value in (("pca", 0.9), ("probe", 0.5)):
            found.append(Quantity("method_cosine", value, "cosine", labels={"method": method, **which}))
    return found


def _cosines(n_layers: int, best: int, peak: float, null: float, words: bool) -> Iterator[Quantity]:
    for step, shift, factor in (("raw", "jacobian", 1.0), ("raw", "finite", 0.9), ("adam", "jacobian", 0.5)):
        claimed = (step, shift) == ("raw", "jacobian")
        for layer in range(1, n_layers + 1):
            yes: Label = str(layer > 1) if words else layer > 1
            labels: dict[str, Label] = {"layer": layer, "step": step, "shift": shift, "reference": yes}
            value = factor * cosine_at(layer, best, peak)
            yield Quantity(
                "step_cosine", value, "cosine", stderr=0.01, null=0.8 * null if claimed else None, labels=labels
            )
    n_below = N_DRAWS if peak > null else 5
    for step, factor in (("raw", 1.0), ("adam", 0.5)):
        which: dict[str, Label] = {"step": step, "layer": best, "n_below": n_below}
        yield Quantity("best_layer_cosine", factor * peak, "cosine", stderr=0.01, null=null, labels=which)


def _draws(null: float) -> Iterator[Quantity]:
    """Evenly spread up to the largest, which is a random weight direction."""
    for kind, n, largest in (("random_weights", N_RANDOM, null), ("shuffled_labels", N_SHUFFLED, 0.9 * null)):
        for draw in range(n):
            labels: dict[str, Label] = {"null": kind, "draw": draw}
            yield Quantity("null_best_layer_cosine", largest * (draw + 1) / n, "cosine", labels=labels)
    for task in OTHER_TASKS:
        which: dict[str, Label] = {"null": "other_tasks", "draw": task}
        yield Quantity("null_best_layer_cosine", 0.95 * null, "cosine", labels=which)


def _linearity(n_layers: int, best: int) -> Iterator[Quantity]:
    """Exact for small steps; elsewhere than at the best layer, half as long a step is as bad."""
    for layer in range(1, n_layers + 1):
        for size in SIZES:
            length = size if layer == best else 2 * size
            labels: dict[str, Label] = {"layer": layer, "size": size}
            yield Quantity("linearity_cosine", 1 / sqrt(1 + length**2), "cosine", labels=labels)
            yield Quantity("linearity_norm_ratio", 1 / (1 + length), "ratio", labels=labels)


def _doses(best: int, factor: float, random_sign: int) -> Iterator[Quantity]:
    for name, strength in STRENGTH.items():
        for dose in DOSES:
            labels: dict[str, Label] = {"vector": name, "layer": best, "dose": dose}
            labels |= {"draw": 0} if name == "random" else {}
            change = factor * strength * dose * (random_sign if name == "random" else 1)
            yield Quantity("dose_logit_difference", change, "nats", stderr=0.1, labels=labels)
            yield Quantity("dose_accuracy", -0.1 * abs(dose), "fraction", stderr=0.01, labels=labels)
            yield Quantity("dose_kl", KL * PRICE[name] * dose**2, "nats per token", labels=labels)


def _calibrated(n_layers: int, best: int, factor: float, weaker: float, words: bool) -> Iterator[Quantity]:
    """At the best layer and the last; in the last, random directions never reach the KL."""
    for layer in sorted({best, n_layers}):
        for name in STRENGTH:
            for draw in range(len(RANDOM_SIGNS)) if name == "random" else (None,):
                labels: dict[str, Label] = {"vector": name, "layer": layer, "kl": KL}
                labels |= {} if draw is None else {"draw": draw}
                if name == "random" and layer == n_layers:
                    yield Quantity(
                        "calibrated_dose", None, "multiples of the CAA norm", labels=labels, reason=UNREACHABLE
                    )
                    continue
                dose, sign = 1 / sqrt(PRICE[name]), 1 if draw is None else RANDOM_SIGNS[draw]
                effect = sign * factor * dose * effect_at(name, layer, best) * (weaker if name == "step" else 1.0)
                yield Quantity("calibrated_dose", dose, "multiples of the CAA norm", labels=labels)
                yield Quantity("calibrated_effect", effect, "nats", stderr=0.1, labels=labels)
                if draw is None:
                    yield from _collateral(name, labels)
        yes: Label = str(layer == best) if words else layer == best
        null = RANDOM_RATIO if layer == best else None
        ratio = (RATIO if layer == best else 0.6) * weaker * factor
        yield Quantity(
            "effect_ratio", ratio, "ratio", stderr=0.02, null=null, labels={"layer": layer, "kl": KL, "best": yes}
        )


def _collateral(name: str, labels: dict[str, Label]) -> Iterator[Quantity]:
    harm = {"caa": 0.01, "step": 0.02}[name] * int(labels["layer"])
    for task in ("copy", "reverse"):
        yield Quantity("collateral_accuracy", -harm, "fraction", labels={**labels, "task": task})
        yield Quantity("collateral_loss", 2 * harm, "nats per target token", labels={**labels, "task": task})
