"""Vectors, weight steps and null draws as a reader meets them: readable name and look."""

from __future__ import annotations

from lineament.report.series import BLACK, GREY, ORANGE, VERMILLION, Style

CAA, STEP, RANDOM = "caa", "step", "random"
VECTORS = {
    CAA: ("CAA vector", Style(BLACK, width=3)),
    STEP: ("gradient step's shift", Style(VERMILLION, symbol="square", width=3)),
    RANDOM: ("random weight direction's shift", Style(ORANGE, "dash", "x")),
}
WEIGHT_STEPS = {"raw": "gradient step", "adam": "Adam's first step"}
NULL_DRAWS = {
    "random_weights": "random weight directions",
    "shuffled_labels": "steps on shuffled labels",
    "other_tasks": "steps on other tasks' prompts",
}


def vector_label(name: str) -> str:
    """Return the readable name of a vector that activations are steered with."""
    return VECTORS[name][0] if name in VECTORS else name.replace("_", " ")


def vector_style(name: str) -> Style:
    """Return how a vector that activations are steered with is drawn."""
    return VECTORS[name][1] if name in VECTORS else Style(GREY, "dot")
