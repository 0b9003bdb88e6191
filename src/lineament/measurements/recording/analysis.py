"""From a recording to one record: captures, spans, drift and retention of planes, staleness, rank, in every space.

Everything is answered from Gram matrices of the recorded rows; no model and no data are needed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from lineament.errors import InputError
from lineament.measurements.recording import blind_run, moving_rows, planes, ranks, retention, spans, staleness
from lineament.measurements.recording.blind_run import BlindRun, optimizer_of
from lineament.measurements.recording.moving_rows import MovingRows
from lineament.measurements.recording.options import AnalysisOptions
from lineament.problems.progress import Progress, Told, silent, stretch
from lineament.records import Label, Quantity, Record
from lineament.settings.plain import digest
from lineament.vectors.effective import effective_gram, effective_spectrum
from lineament.vectors.recording.reader import Trajectory
from lineament.vectors.recording.sketch import capture_error, distortion
from lineament.vectors.trajectory_gram import Coefficients, TrajectoryGram

NAME = "recording"
STUDY = re.compile(r"(.+)-seed(-?[0-9]+)")
# Of a recording that does not say: the usual beta1 and momentum of optimizers.
USUAL_MOMENTUM = 0.9
# 3 / (1 - 0.9) is a little above 30.
ROUNDING = 1e-9
DEFINITIONS = {
    "recorded": "rows of the recording, optimizer steps they cover, |D| = |theta_end - theta_0|, and |D| over the "
    "summed length of the updates (1: a straight line; null: 1 / sqrt(rows), independent updates); zero updates: "
    + moving_rows.DEFINITION,
    "blind_run": blind_run.DEFINITION,
    "capture_error": "largest error of a captured fraction that the sketch may make, with probability at least 0.95 "
    "(Nelson and Nguyen 2013), for a basis of this rank that captures nothing",
    **spans.DEFINITIONS,
    **planes.DEFINITIONS,
    **retention.DEFINITIONS,
    **staleness.DEFINITIONS,
    **ranks.DEFINITIONS,
}
# Where its parts begin in a hundred of the time that a recording of an adapter takes; one of weights has no last part.
CAPTURES, DRIFT, EFFECTIVE, WHOLE = 12, 25, 28, 100


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
    progress: Progress = silent,
) -> Record:
    """All figures of one recording.

    Args:
        target, seed: what the record is called; recordings of one target are replicates.

    Raises:
        InputError: fewer than two rows that moved the weights, or companions of another space.
    """
    companions = companions or Companions()
    whole = WHOLE if trajectory.scales and trajectory.sketch is None else EFFECTIVE
    gram = trajectory.gram(stretch(progress, "inner products of updates", 0, CAPTURES, whole))
    blind = BlindRun.of(trajectory, gram, options)
    run = MovingRows.of(gram, trajectory.steps, blind.updates, str(trajectory.folder))
    figures = _parameter_figures(trajectory, run, options, companions, lambda what, at: progress(what, at, whole))
    figures += [run.zero_rows(trajectory.n_steps), blind.quantity()]
    if whole > EFFECTIVE:
        told = stretch(progress, "inner products of dW updates", EFFECTIVE, whole, whole)
        figures += _effective_figures(trajectory, blind, options, told)
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


def momentum_gap_rows(trajectory: Trajectory, steps_per_row: int | None, options: AnalysisOptions) -> int:
    """Rows beyond which updates share no momentum: 3 / (1 - beta1) optimizer steps (protocol, section 3)."""
    known = optimizer_of(trajectory, options).momentum
    beta = known if known is not None else float(trajectory.about.get("beta1", USUAL_MOMENTUM))
    if not 0 <= beta < 1:
        raise InputError(f"{trajectory.folder} says beta1 = {beta}; it must be at least 0 and below 1.")
    return 0 if beta == 0 else math.ceil(3 / (1 - beta) / (steps_per_row or 1) - ROUNDING)


def _parameter_figures(
    trajectory: Trajectory,
    run: MovingRows,
    options: AnalysisOptions,
    companions: Companions,
    begins: Callable[[str, int], None],
) -> list[Quantity]:
    begins("captures", CAPTURES)
    foreign = _foreign(trajectory, run.rows, options, companions)
    figures = [*_summary(trajectory, run), *spans.capture_figures(run, foreign, options, "parameters")]
    figures += spans.span_figures(run, options, "parameters")
    figures += staleness.task_vector_figures(run, options, "parameters")
    figures += ranks.run_rank_figures(run, "parameters")
    figures += _sketch_errors(trajectory, options)
    begins("drift of planes", DRIFT)
    figures += _drift_figures(trajectory, run, options)
    return figures + _end_figures(trajectory, run, options, companions)


def _drift_figures(trajectory: Trajectory, run: MovingRows, options: AnalysisOptions) -> list[Quantity]:
    """How long planes and mean directions last: of gradients where they were recorded, else of updates."""
    if trajectory.gradients is not None:
        gram = trajectory.gradients.gram()
        # gradients that know nothing are independent
        drifting = MovingRows.of(
            gram, trajectory.steps, TrajectoryGram(np.eye(gram.n_steps), gram.space), f"{trajectory.folder}/gradients"
        ).evenly_spaced()
        figures = planes.plane_figures(drifting.gram, "gradients", drifting.steps_per_row, 0, options)
        figures += retention.retention_figures(drifting, options)
        return figures + staleness.step_figures(drifting, "gradients", options, independent=True)
    even = run.evenly_spaced()
    gap = momentum_gap_rows(trajectory, even.steps_per_row, options)
    figures = planes.plane_figures(even.gram, "updates", even.steps_per_row, gap, options, even.blind)
    figures += retention.not_recorded()
    return figures + staleness.step_figures(even, "updates", options, independent=gap == 0)


def _effective_figures(trajectory: Trajectory, blind: BlindRun, options: AnalysisOptions, told: Told) -> list[Quantity]:
    """The gauge-invariant figures, of dW = scale B A."""
    pairs = trajectory.pairs()
    gram = effective_gram(trajectory, pairs, told=told)
    run = MovingRows.of(gram, trajectory.steps, blind.effective(trajectory, pairs), f"dW of {trajectory.folder}")
    figures = [
        *spans.capture_figures(run, {}, options, "lora_effective"),
        *spans.span_figures(run, options, "lora_effective"),
        *staleness.task_vector_figures(run, options, "lora_effective"),
        *ranks.run_rank_figures(run, "lora_effective"),
    ]
    spectra = effective_spectrum(pairs, trajectory.position(0), trajectory.position(trajectory.n_steps))
    chance = blind.module_ranks(trajectory, pairs, options)
    return figures + ranks.module_rank_figures(pairs, spectra, chance, options)


def _summary(trajectory: Trajectory, run: MovingRows) -> list[Quantity]:
    gram = run.gram
    length = math.sqrt(gram.squared_norm(gram.displacement(1, gram.n_steps)))
    no_factors = trajectory.about.get("no_factors")
    why = f"an adapter, recorded as plain weights: {no_factors}" if no_factors else None
    return [
        Quantity("recorded", float(trajectory.space.n_params), "parameters", labels={"what": "parameters"}, reason=why),
        Quantity("recorded", float(trajectory.n_steps), "rows", labels={"what": "rows"}),
        Quantity("recorded", float(trajectory.steps[-1]), "steps", labels={"what": "steps"}),
        Quantity("recorded", length, "weight units", labels={"what": "displacement"}),
        Quantity(
            "recorded",
            _straightness(gram),
            "fraction",
            null=gram.n_steps**-0.5,
            blind=None if run.blind is None else _straightness(run.blind),
            labels={"what": "straightness"},
        ),
    ]


def _straightness(gram: TrajectoryGram) -> float:
    """|D| over the summed length of the updates."""
    return math.sqrt(gram.squared_norm(gram.displacement(1, gram.n_steps))) / float(np.sqrt(np.diag(gram.gram)).sum())


def _foreign(
    trajectory: Trajectory, rows: np.ndarray, options: AnalysisOptions, companions: Companions
) -> spans.Foreign:
    """U^T u_t of prefixes of other recordings, without ever forming U."""
    most = max(options.ranks)
    return {name: _prefixes(trajectory, rows, other, most) for name, other in companions.nulls.items()}


def _prefixes(own: Trajectory, rows: np.ndarray, other: Trajectory, most: int) -> Callable[[int], Coefficients | None]:
    own.space.require(other.space, f"{own.folder} and {other.folder}")
    n = min(2 * most, other.n_steps)
    gram = TrajectoryGram(other.cross_gram(other, slice(0, n), slice(0, n)), other.space)
    moved = MovingRows.of(gram, other.steps[:n], None, str(other.folder))
    inner = own.cross_gram(other, slice(None), slice(0, n))[np.ix_(rows, moved.rows)]

    def at(rank: int) -> Coefficients | None:
        if rank > moved.n_rows:
            return None
        return Coefficients(moved.gram.prefix(rank).weights.T @ inner.T, own.space)

    return at


def _sketch_errors(trajectory: Trajectory, options: AnalysisOptions) -> list[Quantity]:
    if trajectory.sketch is None:
        return []
    errors = {rank: capture_error(0.0, distortion(trajectory.sketch.size, rank + 1)) for rank in options.ranks}
    return [Quantity("capture_error", error, "fraction", labels={"rank": rank}) for rank, error in errors.items()]


def _end_figures(
    trajectory: Trajectory, run: MovingRows, options: AnalysisOptions, companions: Companions
) -> list[Quantity]:
    """Captures, by this recording's prefixes, of the displacement to an outside end point."""
    if companions.end is None:
        return []
    vector = torch.from_numpy(companions.end) - trajectory.position(0)
    known = trajectory.end_inner_products(vector)
    outside = replace(known, products=known.products[run.rows])
    figures, gram = [], run.gram
    for rank in (rank for rank in options.ranks if rank <= run.n_rows):
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
        named = STUDY.fullmatch(folder.name)
        # the folder's name is changed where the task's was unsafe
        target = str(Trajectory(folder).about.get("task") or (named[1] if named else folder.name))
        found.append((target, int(named[2]) if named else 0, folder))
    if not found:
        raise InputError(
            f"{path} is no recording and no run with recordings: it has neither index.json nor recording/*/index.json. "
            "`LineamentCallback`, `Recorder`, `lineament record-from-checkpoints` and `lineament run` make them."
        )
    return found
