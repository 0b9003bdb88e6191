"""A small sweep of hand-made records: two keys, three seeds, figures that follow a law, so that results can be judged.

One seed of the first cell failed, and the last cell has not started.
"""

from __future__ import annotations

from pathlib import Path

from lineament.records import Quantity, Record
from lineament.runs.sweep.folder import SweepFolder
from lineament.runs.sweep.grid import Cell, Grid, make_grid
from lineament.settings.presets import resolve

OPTIMIZERS, RATES = ("sgd", "adamw"), (0.001, 0.01, 0.1)
VARY = {"recovery.optimizer": OPTIMIZERS, "recovery.lr": RATES}
N_SEEDS = 3
FAILED_SEED = 2
FAILURE = "not recovered after 60 steps <b>"


def overlap(optimizer: str, rate: float, seed: int) -> float:
    """What `basis_drifts` measures in one cell and seed."""
    return 0.2 + 0.1 * OPTIMIZERS.index(optimizer) + 0.05 * RATES.index(rate) + 0.01 * seed * (1 + RATES.index(rate))


def base(**changes: object) -> Grid:
    """The grid of the sweep, with other base settings or varied values where asked for."""
    vary = changes.pop("vary", VARY)
    assert isinstance(vary, dict)
    keys = {"seeds": N_SEEDS, "measure": "gradient_rank,basis_drift", **changes}
    return make_grid(resolve("synthetic", "quick", [("test", keys)]), vary, "test")


def basis_drift(cell: Cell, seed: int) -> Record:
    """Overlap with a null that depends on the step size, and two rates of drift."""
    value = overlap(str(cell.values["recovery.optimizer"]), float(cell.values["recovery.lr"]), seed)
    null = 0.05 + 0.02 * RATES.index(cell.values["recovery.lr"])
    figures = [
        Quantity(
            "retention_at_claim_lags",
            value,
            "fraction",
            stderr=0.01,
            null=null,
            blind=null / 2,
            ceiling=0.9,
            labels={"from": "broken", "lag": 20},
        ),
        Quantity("half_life", None, "steps", labels={"from": "broken"}, reason="> 40 (largest lag)"),
        Quantity("drift_rate", 0.02 + 0.001 * seed, "per step", labels={"phase": "before", "step_size": 0.5}),
        Quantity("drift_rate", 0.01, "per step", labels={"phase": "after", "step_size": 1}),
    ]
    return _record("basis_drift", cell, seed, figures)


def gradient_rank(cell: Cell, seed: int) -> Record:
    """The share of directions, lower than for shuffled labels."""
    which = {"point": "broken", "gradients": "minibatch", "centred": "False", "unit_norm": "False", "n": 64}
    figures = [
        Quantity("k90_share", share + 0.01 * seed, "fraction", labels={**which, "labels": labels})
        for labels, share in {"true": 0.2, "shuffled": 0.6}.items()
    ]
    return _record("gradient_rank", cell, seed, figures)


def write_sweep(path: Path, grid: Grid | None = None) -> SweepFolder:
    """The folder as it stands after jobs ended, before anything is computed from them."""
    folder, grid = SweepFolder(path), grid or base()
    folder.open(grid, resume=False)
    *started, _ = cells = list(grid.cells())
    for cell in started:
        write_cell(folder, cell, failed=FAILED_SEED if cell is cells[0] else None)
    return folder


def write_cell(folder: SweepFolder, cell: Cell, failed: int | None = None) -> None:
    """A run folder as jobs leave it."""
    run = folder.run(cell)
    run.open(cell.settings, resume=False)
    for seed in range(cell.settings.seed, cell.settings.seed + cell.settings.seeds):
        if seed == failed:
            run.mark(f"seed{seed}", "failed", FAILURE)
            continue
        for make in (gradient_rank, basis_drift):
            make(cell, seed).save(run.records)
        run.mark(f"seed{seed}", "done")


def _record(measurement: str, cell: Cell, seed: int, figures: list[Quantity]) -> Record:
    return Record(
        measurement=measurement,
        target=cell.settings.task.targets[0],
        seed=seed,
        problem=cell.settings.problem,
        model="synthetic transformer 2x64",
        space="lora_factors",
        n_params=1000,
        config_hash=cell.settings.hash(),
        quantities=tuple(figures),
        definitions={figure.name: "what it is" for figure in figures},
    )
