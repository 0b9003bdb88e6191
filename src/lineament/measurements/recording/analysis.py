"""From a recording to one record: captures, spans, drift of planes, staleness and rank, in every space it has.

Everything is answered from Gram matrices of the recorded rows; no model and no data are needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from lineament.errors import InputError
from lineament.measurements.recording import planes, ranks, spans, staleness
from lineament.measurements.recording.options import AnalysisOptions
from lineament.records import Label, Quantity, Record
from lineament.settings.plain import digest
from lineament.vectors.effective import effective_gram, effective_spectrum
from lineament.vectors.recording.reader import Trajectory
from lineament.vectors.recording.sketch import capture_error, distortion
from lineament.vectors.trajectory_gram import Coefficients, TrajectoryGram

NAME = "recording"
# Of a recording that does not say: the usual beta1 and momentum of optimizers.
USUAL_MOMENTUM = 0.9
# 3 / (1 - 0.9) is a little above 30.
ROUNDING = 1e-9
DEFINITIONS = {
    "recorded": "rows of the recording, optimizer steps they cover, |D| = |theta_end - theta_0|, and |D| over the "
    "summed length of the updates (1: a straight line; null: 1 / sqrt(rows), independent updates)",
    "capture_error": "largest error of a captured fraction that the sketch may make, with probability at least 0.95 "
    "(Nelson and Nguyen 2013), for a basis of this rank that captures nothing",
    **spans.DEFINITIONS,
    **planes.DEFINITIONS,
    **staleness.DEFINITIONS,
    **ranks.DEFINITIONS,
}
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Companions:
    """Other recordings of the same space, and an end point, that a recording is compared with.

    Attributes:
        nulls: basis name -> recording whose prefixes are captured with, e.g. `null_noise_prefix` or
            `control_other_data`.
        end: an outside end point theta_end, (n_params,), or None.
    """

    nulls: Mapping[str, Trajectory] = field(default_factory=dict)
    end: np.ndarray | None = None


def analyze_recording(
    trajectory: Trajectory,
    target: str,
    seed: int,
    options: AnalysisOptions,
    companions: Companions | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Record:
    """All figures of one recording.

    Args:
        target, seed: what the record is called; recordings of one target are replicates.

    Raises:
        InputError: fewer than two rows, or companions of another space.
    """
    if trajectory.n_steps < 2:
        raise InputError(f"{trajectory.folder} holds {trajectory.n_steps} row(s); at least 2 are needed.")
    companions = companions or Companions()
    figures = _parameter_figures(trajectory, options, companions, progress)
    if trajectory.scales and trajectory.sketch is None:
        figures += _effective_figures(trajectory, options, progress)
    about = {"options": options.hash(), "layout": trajectory.space.layout, "steps": list(trajectory.steps)}
    return Record(
        measurement=NAME,
        target=target,
        seed=seed,
        problem="recording",
        model=str(trajectory.about.get("model", trajectory.index.model)),
        space=trajectory.space.kind,
        n_params=trajectory.space.n_params,
        config_hash=digest(about),
        quantities=tuple(figures),
        definitions=DEFINITIONS,
    )


def momentum_gap_rows(trajectory: Trajectory) -> int:
    """Rows beyond which updates share no momentum: 3 / (1 - beta1) optimizer steps (protocol, section 3)."""
    beta = float(trajectory.about.get("beta1", USUAL_MOMENTUM))
    if not 0 <= beta < 1:
        raise InputError(f"{trajectory.folder} says beta1 = {beta}; it must be at least 0 and below 1.")
    return 0 if beta == 0 else math.ceil(3 / (1 - beta) / (steps_per_row(trajectory) or 1) - ROUNDING)


def steps_per_row(trajectory: Trajectory) -> int | None:
    """Optimizer steps between rows; None if they differ."""
    spacings = set(np.diff([0, *trajectory.steps]).tolist())
    return int(spacings.pop()) if len(spacings) == 1 else None


def _parameter_figures(
    trajectory: Trajectory, options: AnalysisOptions, companions: Companions, progress: Progress
) -> list[Quantity]:
    progress("inner products of updates", 0, 4)
    gram, steps, per_row = trajectory.gram(), trajectory.steps, steps_per_row(trajectory)
    foreign = _foreign(trajectory, options, companions)
    progress("captures", 1, 4)
    figures = [*_summary(gram, steps[-1]), *spans.capture_figures(gram, foreign, options, "parameters")]
    figures += spans.span_figures(gram, steps, options, "parameters")
    figures += staleness.task_vector_figures(gram, steps, options, "parameters")
    figures += ranks.run_rank_figures(gram, "parameters")
    figures += _sketch_errors(trajectory, options)
    progress("drift of planes", 2, 4)
    rows, row_gram, gap = _drifting(trajectory, gram)
    figures += planes.plane_figures(row_gram, rows, per_row, gap, options)
    figures += staleness.step_figures(row_gram, steps, rows, options, independent=gap == 0)
    return figures + _end_figures(trajectory, gram, options, companions)


def _drifting(trajectory: Trajectory, gram: TrajectoryGram) -> tuple[str, TrajectoryGram, int]:
    """(name, Gram matrix, rows of shared memory) of the rows whose planes are compared."""
    if trajectory.gradients is not None:
        return "gradients", trajectory.gradients.gram(), 0
    return "updates", gram, momentum_gap_rows(trajectory)


def _effective_figures(trajectory: Trajectory, options: AnalysisOptions, progress: Progress) -> list[Quantity]:
    """The gauge-invariant figures, of dW = scale B A."""
    progress("inner products of dW updates", 3, 4)
    gram, pairs = effective_gram(trajectory), trajectory.pairs()
    figures = [
        *spans.capture_figures(gram, {}, options, "lora_effective"),
        *spans.span_figures(gram, trajectory.steps, options, "lora_effective"),
        *staleness.task_vector_figures(gram, trajectory.steps, options, "lora_effective"),
        *ranks.run_rank_figures(gram, "lora_effective"),
    ]
    spectra = effective_spectrum(pairs, trajectory.position(0), trajectory.position(trajectory.n_steps))
    return figures + ranks.module_rank_figures(pairs, spectra, options)


def _summary(gram: TrajectoryGram, n_steps: int) -> list[Quantity]:
    length = math.sqrt(gram.squared_norm(gram.displacement(1, gram.n_steps)))
    path = float(np.sqrt(np.diag(gram.gram)).sum())
    straight = length / path if path > 0 else None
    return [
        Quantity("recorded", float(gram.n_steps), "rows", labels={"what": "rows"}),
        Quantity("recorded", float(n_steps), "steps", labels={"what": "steps"}),
        Quantity("recorded", length, "weight units", labels={"what": "displacement"}),
        Quantity("recorded", straight, "fraction", null=gram.n_steps**-0.5, labels={"what": "straightness"}),
    ]


def _foreign(trajectory: Trajectory, options: AnalysisOptions, companions: Companions) -> spans.Foreign:
    """U^T u_t of prefixes of other recordings, without ever forming U."""
    return {name: _prefixes(trajectory, other, max(options.ranks)) for name, other in companions.nulls.items()}


def _prefixes(own: Trajectory, other: Trajectory, most: int) -> Callable[[int], Coefficients | None]:
    n = min(most, other.n_steps)
    own.space.require(other.space, f"{own.folder} and {other.folder}")
    inner = own.cross_gram(other, slice(None), slice(0, n))
    others = TrajectoryGram(other.cross_gram(other, slice(0, n), slice(0, n)), other.space)

    def at(rank: int) -> Coefficients | None:
        return Coefficients(others.prefix(rank).weights.T @ inner.T, own.space) if rank <= n else None

    return at


def _sketch_errors(trajectory: Trajectory, options: AnalysisOptions) -> list[Quantity]:
    if trajectory.sketch is None:
        return []
    errors = {rank: capture_error(0.0, distortion(trajectory.sketch.size, rank + 1)) for rank in options.ranks}
    return [Quantity("capture_error", error, "fraction", labels={"rank": rank}) for rank, error in errors.items()]


def _end_figures(
    trajectory: Trajectory, gram: TrajectoryGram, options: AnalysisOptions, companions: Companions
) -> list[Quantity]:
    """Captures, by this recording's prefixes, of the displacement to an outside end point."""
    if companions.end is None:
        return []
    vector = torch.from_numpy(companions.end) - trajectory.position(0)
    outside = trajectory.end_inner_products(vector)
    figures = []
    for rank in (rank for rank in options.ranks if rank <= trajectory.n_steps):
        labels: dict[str, Label] = {"basis": "prefix", "rank": rank, "space_of": "parameters"}
        labels |= {"definition": "outside_end", "at": "end"}
        value = gram.capture_outside(gram.prefix(rank), outside)
        figures.append(Quantity("capture", value, "fraction", null=rank / trajectory.space.n_params, labels=labels))
    return figures


def find_recordings(path: Path) -> list[tuple[str, int, Path]]:
    """(target, seed, folder) of a recording, or of every recording of a run folder.

    Raises:
        InputError: there is none.
    """
    if (path / "index.json").is_file():
        return [(path.name or path.resolve().name, 0, path)]
    inside = sorted(p.parent for p in (path / "recording").glob("*/index.json"))
    found = []
    for folder in inside:
        target, dash, seed = folder.name.rpartition("-seed")
        found.append((target, int(seed), folder) if dash and seed.isdigit() else (folder.name, 0, folder))
    if not found:
        raise InputError(
            f"{path} is no recording and no run with recordings: it has neither index.json nor recording/*/index.json. "
            "`LineamentCallback`, `Recorder`, `lineament record-from-checkpoints` and `lineament run` make them."
        )
    return found
