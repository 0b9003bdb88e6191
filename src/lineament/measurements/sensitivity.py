"""How far captures move with step size and damage kind: a 3 x 3 grid (protocol, section 2; full preset).

Damage kind, optimizer and step size move captures by more than the seed does, so they are shown beside the headline.
Each cell damages and recovers anew from theta_star; captures at the headline rank, whole and rest, at T.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save

from lineament.errors import NonFiniteError
from lineament.files.writing import write_bytes
from lineament.measurements.capture_bases import Workbench, static_broken
from lineament.measurements.capture_ranks import why_unusable
from lineament.measurements.captures import Candidate, definitions, mean_capture, own_candidates
from lineament.records import Label, Quantity
from lineament.settings.training import DamageKind
from lineament.study.case import Case
from lineament.study.files import StudyFiles
from lineament.study.points import BEFORE_DAMAGE, DAMAGED
from lineament.study.study import Study, prepare_study

STEP_SIZE_FACTORS = (0.5, 1.0, 2.0)
DAMAGE_KINDS: tuple[DamageKind, ...] = ("wrong_labels_replay", "uniform_labels", "gaussian")
N_CELLS = len(STEP_SIZE_FACTORS) * len(DAMAGE_KINDS)
CANDIDATES = ("prefix", "control_random_times", "static_broken")
DEFINITION = (
    "capture at the headline rank after another damage kind and step size (3 x 3 grid); whole: of D, rest: of D less "
    "the updates the basis was built from; static_broken less u_1..u_k (protocol 2)"
)


def grid_figures(study: Study) -> list[Quantity]:
    """Measure captures by prefix, random times and static plane in every cell; a cell that fails says why."""
    figures: list[Quantity] = []
    cells = [(kind, factor) for kind in DAMAGE_KINDS for factor in STEP_SIZE_FACTORS]
    for number, (kind, factor) in enumerate(cells):
        study.progress("step size by damage grid", number, len(cells))
        lr = study.settings.recovery.lr * factor
        labels: dict[str, Label] = {"damage": kind, "lr": lr}
        if kind == "gaussian" and not study.problem.start_known:
            reason = "gaussian damage is measured against theta_star - theta_start, which is not known"
            figures.append(Quantity("grid_recovery_steps", None, "steps", labels=labels, reason=reason))
            continue
        figures += list(_cell(study, kind, lr, labels))
    return figures


def _cell(study: Study, kind: DamageKind, lr: float, labels: dict[str, Label]) -> Iterator[Quantity]:
    settings = replace(
        study.settings,
        damage=replace(study.settings.damage, kind=kind),
        recovery=replace(study.settings.recovery, lr=lr),
    )
    with tempfile.TemporaryDirectory(prefix="lineament-grid-") as folder, study.problem.parameters.restored():
        files = StudyFiles.inside(Path(folder))
        before = {point: theta for point, theta in study.points.items() if point in BEFORE_DAMAGE}
        write_bytes(files.operating_point, save(before))
        try:
            cell = prepare_study(Case(study.problem, settings, study.target, study.seed, files))
        except NonFiniteError as error:
            yield Quantity("grid_recovery_steps", None, "steps", labels=labels, reason=str(error))
            return
        steps, reason = cell.curve.recovered_at, cell.curve.why_not_recovered
        yield Quantity("grid_recovery_steps", steps, "steps", labels=labels, reason=reason)
        if steps:
            yield from _captures(cell, labels)


def _captures(cell: Study, labels: dict[str, Label]) -> Iterator[Quantity]:
    rank = cell.settings.measurement.headline_rank
    if rank > cell.recovered_at:
        for name in CANDIDATES:
            for definition in ("whole", "rest"):
                where = {**labels, "basis": name, "rank": rank, "definition": definition}
                yield Quantity("grid_capture", None, "fraction", labels=where, reason=why_unusable(cell, rank))
        return
    with cell.problem.parameters.temporarily(cell.points[DAMAGED]):
        coefficients = cell.trajectory.coefficients(static_broken(Workbench(cell)))
    end, draws = cell.recovered_at, cell.settings.measurement.random_draws
    own = own_candidates(cell.gram, end, draws, lambda rank: cell.streams.generator("random times", rank))
    drawn = {name: own[name](rank) for name in ("prefix", "control_random_times")}
    drawn["static_broken"] = [Candidate(coefficients.leading(rank), None)]
    for which, weights_of in definitions(cell.gram, rank, {"T": end}):
        if which["definition"] != "rest_gap":
            for name, candidates in drawn.items():
                where = {**labels, "basis": name, "rank": rank, "definition": which["definition"]}
                found = mean_capture(cell.gram, candidates, weights_of, where)
                yield replace(found, name="grid_capture")
