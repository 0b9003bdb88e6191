"""Tables of steering: doses at equal KL, accuracy by dose, costs to other tasks, other methods for the vector."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.claims.steering import is_true
from lineament.records import Label, Quantity, Record
from lineament.report.estimates import (
    correlation,
    estimate,
    label_numbers,
    label_texts,
    null_of,
    number,
    select,
)
from lineament.report.sections.steering.effects import best_ratios, by_dose, calibrated, common_layers, vectors
from lineament.report.sections.steering.layers import at_best, best_layers, layers_of
from lineament.report.sections.steering.names import vector_label
from lineament.report.series import Table

METHODS = {"pca": "PCA of differences", "probe": "linear probe"}
# A deep model has more layers than a table should have rows.
MAX_LAYERS = 16


def calibrated_table(sources: Sequence[Record]) -> Table | None:
    """Per vector and layer: the dose that costs the budget, what it does, and that over the CAA vector's effect."""
    names, budgets = vectors(sources, "calibrated_dose"), label_numbers(sources, "calibrated_dose", "kl")
    if not names:
        return None
    places: list[int | None] = [None] if best_layers(sources) else []
    places += common_layers(sources, "calibrated_dose")
    rows = [_calibrated_row(sources, name, layer, kl) for kl in budgets for layer in places for name in names]
    columns = ("layer", "vector", "KL", "dose", "change of logit difference", "over the CAA vector's")
    note = (
        "KL in nats per token of neutral text; dose in multiples of |CAA|; change in nats. The last column is the "
        "effect ratio of the claim for the gradient step, and its null for random weight directions, of which mean "
        "sizes are shown. Mean and 95 % interval over seeds."
    )
    return Table("The dose that each vector needs for the same KL, and what it does", columns, rows, note)


def accuracy_table(sources: Sequence[Record]) -> Table | None:
    """Change of accuracy on held-out prompts by dose, one column per vector."""
    names = [name for name in vectors(sources, "dose_accuracy") if at_best(sources, "dose_accuracy", vector=name)]
    if not names:
        return None
    rows = [(number(dose), *(_change(sources, name, dose) for name in names)) for dose in _doses(sources)]
    note = (
        "Change of the fraction of held-out examples answered rightly, at each seed's best layer. Steering towards one "
        "label costs accuracy on examples of the other. Mean and 95 % interval over seeds."
    )
    columns = ("dose (multiples of |CAA|)", *(vector_label(name) for name in names))
    return Table("Change of accuracy on the task while it is steered", columns, rows, note)


def collateral_table(sources: Sequence[Record]) -> Table | None:
    """What steering at equal KL does to other tasks, at each seed's best layer."""
    names = vectors(sources, "collateral_loss")
    tasks = label_texts(sources, "collateral_loss", "task")
    budgets = label_numbers(sources, "collateral_loss", "kl")
    if not at_best(sources, "collateral_loss"):
        return None
    rows = [
        (task, vector_label(name), number(kl), *_collateral(sources, vector=name, task=task, kl=kl))
        for kl in budgets
        for task in tasks
        for name in names
    ]
    columns = ("other task", "vector", "KL", "change of accuracy (fraction)", "change of loss (nats per target token)")
    note = "At the dose that costs this KL, at each seed's best layer. Mean and 95 % interval over seeds."
    return Table("What steering costs other tasks", columns, rows, note)


def agreement_table(sources: Sequence[Record]) -> Table | None:
    """Per layer: how well halves of the data agree on the CAA vector, its length, and other ways to make it."""
    layers = layers_of(sources, "split_half_agreement")
    if not layers:
        return None
    shown = _thinned(layers, set(best_layers(sources).values()))
    methods = label_texts(sources, "method_cosine", "method")
    rows = [_agreement_row(sources, layer, methods) for layer in shown]
    note = (
        "Cosines with the CAA vector, signed; below 0.95 between halves it is no reference. Length: |CAA| over the "
        "root-mean-square norm of the activations. Mean and 95 % interval over seeds."
    )
    if len(shown) < len(layers):
        note += f" Shown are {len(shown)} of {len(layers)} layers; the records hold all."
    columns = ("layer", "reference in", "halves of the data", "length", *(METHODS.get(m, m) for m in methods))
    return Table("Is the CAA vector a reference, and do other methods find it?", columns, rows, note)


def _calibrated_row(sources: Sequence[Record], name: str, layer: int | None, kl: float) -> tuple[str, ...]:
    cells = [
        estimate(calibrated(sources, quantity, name, layer, kl), fraction=False).text
        for quantity in ("calibrated_dose", "calibrated_effect")
    ]
    ratios = best_ratios(sources, kl) if layer is None else select(sources, "effect_ratio", layer=layer, kl=kl)
    null = null_of(ratios)
    random = "none" if null.mean is None else null.text
    beside = {"caa": "1", "step": estimate(ratios, fraction=False).text, "random": random}
    where = "best of each seed" if layer is None else str(layer)
    return (where, vector_label(name), number(kl), *cells, beside.get(name, ""))


def _doses(sources: Sequence[Record]) -> list[float]:
    """Doses other than none, which changes nothing."""
    return [dose for dose in label_numbers(sources, "dose_accuracy", "dose") if dose]


def _change(sources: Sequence[Record], name: str, dose: float) -> str:
    return estimate(by_dose(sources, "dose_accuracy", name, dose), fraction=False).text


def _collateral(sources: Sequence[Record], **labels: Label) -> tuple[str, str]:
    accuracy, loss = (
        estimate(at_best(sources, quantity, **labels), fraction=False).text
        for quantity in ("collateral_accuracy", "collateral_loss")
    )
    return accuracy, loss


def _thinned(layers: list[int], always: set[int]) -> list[int]:
    """All layers where they are few; else evenly chosen ones and those that matter."""
    if len(layers) <= MAX_LAYERS:
        return layers
    every = -(-len(layers) // MAX_LAYERS)
    return [layer for i, layer in enumerate(layers) if i % every == 0 or layer in always or layer == layers[-1]]


def _agreement_row(sources: Sequence[Record], layer: int, methods: list[str]) -> tuple[str, ...]:
    steps = select(sources, "step_cosine", step="raw", shift="jacobian", layer=layer)
    references = sum(is_true(f, "reference") for f in steps)
    cosines = [correlation(select(sources, "method_cosine", method=method, layer=layer)).text for method in methods]
    halves = correlation(select(sources, "split_half_agreement", layer=layer)).text
    return (str(layer), f"{references} of {len(steps)} seeds", halves, _length(sources, layer), *cosines)


def _length(sources: Sequence[Record], layer: int) -> str:
    """|CAA| over the norm of activations, per seed."""
    found = []
    for record in sources:
        own, whole = record.value("caa_norm", layer=layer), record.value("activation_rms_norm", layer=layer)
        if own is not None and whole:
            found.append(Quantity("length", own / whole, "ratio"))
    return estimate(found, fraction=False).text
