"""Layers of a steered model: which is each seed's best, what was measured there, and how layers are written."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.records import Label, Quantity, Record
from lineament.report.estimates import label_integers

MAX_TICKS = 12


def best_layers(sources: Sequence[Record]) -> dict[int, int]:
    """Return seed -> the layer of the gradient step's best cosine; seeds without a reference layer are left out."""
    layers: dict[int, int] = {}
    for record in sources:
        for cosine in record.select("best_layer_cosine", step="raw"):
            if cosine.value is not None:
                layers.setdefault(record.seed, int(cosine.labels["layer"]))
    return layers


def at_best(sources: Sequence[Record], name: str, **labels: Label) -> list[Quantity]:
    """Return the matching quantities at each seed's best layer."""
    best = best_layers(sources)
    return [
        quantity
        for record in sources
        if record.seed in best
        for quantity in record.select(name, layer=best[record.seed], **labels)
    ]


def best_layer_text(sources: Sequence[Record]) -> list[str]:
    """Say which layer is each seed's best."""
    best = best_layers(sources)
    named = ", ".join(f"{layer} (seed {seed})" for seed, layer in sorted(best.items()))
    return [f"Best layer, by the gradient step's cosine: {named}."] if best else []


def layers_of(sources: Sequence[Record], name: str) -> list[int]:
    """Return the layers at which a quantity was measured, ascending."""
    return label_integers(sources, name, "layer")


def layer_ticks(layers: Sequence[int]) -> list[int]:
    """Return every layer if they are few, else every fifth."""
    if len(layers) <= MAX_TICKS:
        return list(layers)
    return [layer for layer in layers if layer == layers[0] or layer % 5 == 0]


def ends(layers: Sequence[int]) -> list[float]:
    """Return places a little beyond the outermost layers, so that lines across reach past their dots."""
    return [layers[0] - 0.3, layers[-1] + 0.3]
