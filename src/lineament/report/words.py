"""Plain words for what several parts of a report show: groups of series, points and spaces."""

from __future__ import annotations

from lineament.study.points import DAMAGED, RECOVERED, START, TRAINED

GROUPS = {
    "own": "the updates themselves",
    "static": "fixed beforehand",
    "krylov": "Krylov",
    "control": "controls",
    "null": "nulls",
    "reference": "references",
    "surface": "loss",
}
POINTS = {
    START: "start",
    TRAINED: "trained",
    DAMAGED: "damaged",
    "half recovered": "half-way through the recovery",
    RECOVERED: "recovered",
}
SPACES = {
    "lora_factors": "LoRA factors A, B",
    "lora_effective": "LoRA effective weights dW",
    "full": "all weights",
    "parameters": "measured parameters",
}
