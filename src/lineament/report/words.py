"""Plain words for what several parts of a report show: groups of series, points and spaces."""

from __future__ import annotations

import re
from pathlib import PurePosixPath, PureWindowsPath

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
# A place in the file system: from a root, a home or the folder that one is in, or through several folders.
PLACE = re.compile(r"[/.~]|[A-Za-z]:[\\/]|.*[/\\].*[/\\]")


def model_words(model: str) -> str:
    """Return a model as a heading names it: of a place in the file system its last folder, another name as it is."""
    if not PLACE.match(model):
        return model
    return (PureWindowsPath(model) if "\\" in model else PurePosixPath(model)).name or model
