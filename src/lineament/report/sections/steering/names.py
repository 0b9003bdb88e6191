"""What vectors, weight steps and null draws are called."""

from __future__ import annotations

VECTORS = {
    "caa": "CAA vector",
    "step": "gradient step's shift",
    "random": "random weight direction's shift",
}
WEIGHT_STEPS = {"raw": "gradient step", "adam": "Adam's first step"}
NULL_DRAWS = {"random_weights": "random weight directions", "shuffled_labels": "steps on shuffled labels"}


def vector_label(name: str) -> str:
    """Readable name of a vector that activations are steered with."""
    return VECTORS.get(name) or name.replace("_", " ")
