"""Tables of steering: doses at equal KL, accuracy by dose, costs to other tasks, other methods for the vector."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.claims.steering_details import is_true
from lineament.records import Label, Record
from lineament.report.estimates import (
    correlation,
    estimate,
    estimate_values,
    label_numbers,
    label_texts,
    null_of,
    number,
    select,
)
from lineament.report.sections.steering.effects import best_ratios, by_dose, calibrated, common_layers, vectors
from lineament.report.sections.steering.layers import at_best, best_layers, layers_of
from lineament.report.sections.steering.names import CAA, RANDOM, STEP, vector_label
from lineament.report.series import Table

METHODS = {"pca": "PCA of differences", "probe": "linear probe"}
# A deep model has more layers than a table should have rows.
MAX_LAYERS = 16


def calibrated_table(sources: Sequence[Record]) -> Table | None:
    """Tabulate the dose at which each vector causes the same KL, its effect, and that over the CAA vector's."""
    names, budgets = vectors(sources, "calibrated_dose"), label_numbers(sources, "calibrated_dose", "kl")
    if not names:
        return None
    places: list[int | None] = [None] if best_layers(sources) else []
    places += common_layers(sources, "calibrated_dose")
    rows = [_calibrated_row(sources, name, layer, kl) for kl in budgets for layer in places for name in names]
    columns = ("layer", "vector", "KL", "dose", "change of logit difference", "over the CAA vector's")
    note = (
        "KL in nats per token of neutral text; dose in multiples of |CAA|; change in nats. The last column is, for the "
        "gradient step, the effect ratio that the claim is about, and for random weight directions its null. Of random "
        "weight directions mean sizes are shown. Mean and 95 % interval over seeds."
    )
    return Table("The dose that each vector needs for the same KL, and its effect", columns, rows, note)


def accuracy_table(sources: Sequence[Record]) -> Table | None:
    """Tabulate the change of accuracy on held-out prompts by dose, one column per vector."""
    names = [name for name in vectors(sources, "dose_accuracy") if at_best(sources, "dose_accuracy", vector=name)]
    if not names:
        return None
    rows = [(number(dose), *(_change(sources, name, dose) for name in names)) for dose in _doses(sources)]
    note = (
        "Change in the fraction of held-out examples answered correctly, at each seed's best layer. Steering towards "
        "one label costs accuracy on examples of the other. Mean and 95 % interval over seeds."
    )
    columns = ("dose (multiples of |CAA|)", *(vector_label(name) for name in names))
    return Table("Change of accuracy on the task under steering", columns, rows, note)


def collateral_table(sources: Sequence[Record]) -> Table | None:
    """Tabulate what steering at equal KL does to other tasks, at each seed's best layer."""
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
    note = "At the dose that causes this KL, at each seed's best layer. Mean and 95 % interval over seeds."
    return Table("What steering costs other tasks", columns, rows, note)


def agreement_table(sources: Sequence[Record]) -> Table | None:
    """Tabulate how well halves of the data agree on the CAA vector, its length, and other methods, by layer."""
    layers = layers_of(sources, "split_half_agreement")
    if not layers:
        return None
    shown = _thinned(layers, set(best_layers(sources).values()))
    methods = label_texts(sources, "method_cosine", "method")
    rows = [_agreement_row(sources, layer, methods) for layer in shown]
    note = (
        "Signed cosines with the CAA vector; it is no reference where the two halves agree to less than 0.95. Length: "
        "|CAA| over the root-mean-square norm of the activations. Mean and 95 % interval over seeds."
    )
    if len(shown) < len(layers):
        note += f" The table shows {len(shown)} of {len(layers)} layers; the records hold all."
    columns = ("layer", "reference in", "halves of the data", "length", *(METHODS.get(m, m) for m in methods))
    return Table("Is the CAA vector a reference, and do other methods give it too?", columns, rows, note)


def _calibrated_row(sources: Sequence[Record], vector: str, layer: int | None, kl: float) -> tuple[str, ...]:
    cells = [
        estimate(calibrated(sources, name, vector, layer, kl), fraction=False).text
        for name in ("calibrated_dose", "calibrated_effect")
    ]
    ratios = best_ratios(sources, kl) if layer is None else select(sources, "effect_ratio", layer=layer, kl=kl)
    null = null_of(ratios)
    random = "none" if null.mean is None else null.text
    beside = {CAA: "1", STEP: estimate(ratios, fraction=False).text, RANDOM: random}
    where = "best of each seed" if layer is None else str(layer)
    return (where, vector_label(vector), number(kl), *cells, beside.get(vector, ""))


def _doses(sources: Sequence[Record]) -> list[float]:
    """Return the doses other than 0, which changes nothing."""
    return [dose for dose in label_numbers(sources, "dose_accuracy", "dose") if dose]


def _change(sources: Sequence[Record], name: str, dose: float) -> str:
    return estimate(by_dose(sources, "dose_accuracy", name, dose), fraction=False).text


def _collateral(sources: Sequence[Record], **labels: Label) -> tuple[str, str]:
    accuracy, loss = (
        estimate(at_best(sources, name, **labels), fraction=False).text
        for name in ("collateral_accuracy", "collateral_loss")
    )
    return accuracy, loss


def _thinned(layers: list[int], always: set[int]) -> list[int]:
    """Return all layers if they are few; else evenly chosen ones, those that matter and the last."""
    if len(layers) <= MAX_LAYERS:
        return layers
    every = -(-len(layers) // MAX_LAYERS)
    return [layer for i, layer in enumerate(layers) if i % every == 0 or layer in always or layer == layers[-1]]


def _agreement_row(sources: Sequence[Record], layer: int, methods: list[str]) -> tuple[str, ...]:
    steps = select(sources, "step_cosine", step="raw", shift="jacobian", layer=layer)
    references = sum(is_true(step, "reference") for step in steps)
    cosines = [correlation(select(sources, "method_cosine", method=method, layer=layer)).text for method in methods]
    halves = correlation(select(sources, "split_half_agreement", layer=layer)).text
    return (str(layer), f"{references} of {len(steps)} seeds", halves, _length(sources, layer), *cosines)


def _length(sources: Sequence[Record], layer: int) -> str:
    """Return |CAA| over the norm of activations."""
    lengths = []
    for record in sources:
        own, whole = record.value("caa_norm", layer=layer), record.value("activation_rms_norm", layer=layer)
        if own is not None and whole:
            lengths.append(own / whole)
    return estimate_values(lengths, fraction=False).text
