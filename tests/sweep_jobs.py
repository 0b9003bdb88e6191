"""Jobs of about a second, real ones: train, damage, recover and measure in the smallest model."""

from __future__ import annotations

from pathlib import Path

from lineament.settings.presets import resolve
from lineament.settings.settings import Settings

SMALLEST = {
    "measure": "gradient_rank",
    "seeds": "3",
    "task.names": "copy,maximum",
    "task.targets": "copy",
    "task.evaluation_examples": "16",
    "training.steps": "30",
    "training.batch": "32",
    "model.width": "16",
    "model.layers": "1",
    "model.length": "4",
    "operating.steps": "10",
    "operating.batch": "8",
    "damage.steps": "5",
    "damage.batch": "8",
    "recovery.steps": "10",
    "recovery.batch": "8",
    "measurement.ranks": "1,2",
    "measurement.headline_rank": "2",
    "measurement.gradients": "4",
    "measurement.minibatch": "4",
}


def smallest(**changes: str) -> Settings:
    """Settings of a job that takes about a second."""
    return resolve("synthetic", "quick", [("test", {**SMALLEST, **changes})])


def sets(**changes: str) -> list[str]:
    """The same as flags."""
    return [part for key, value in {**SMALLEST, **changes}.items() for part in ("--set", f"{key}={value}")]


def cell_records(out: Path) -> dict[str, bytes]:
    """Every record of a sweep: path below it -> content."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.glob("cells/*/records/*"))}
