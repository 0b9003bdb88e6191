"""A piece of a generation as a task: any process that is given the point and the region's basis scores it alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from lineament.bases import Basis
from lineament.commands.search.methods import Draws, MemberMaker
from lineament.commands.search.target import Target
from lineament.errors import LineamentError
from lineament.files.reading import read_bytes
from lineament.files.schemas import read_ours
from lineament.files.tensors import load_tensors
from lineament.files.writing import write_bytes, write_json
from lineament.population.population import Population
from lineament.population.region import Region
from lineament.problems.problem import Problem
from lineament.problems.progress import Progress
from lineament.runs.folder import RunFolder
from lineament.runs.job import make_problem
from lineament.settings.settings import Settings


@dataclass(frozen=True)
class Place:
    """What all pieces of a search have in common: with the file of the point, it decides what a member scores.

    Attributes:
        weights: hash of the whole model at the point.
        content: hash of the file of the point.
        region: name of the region, which keys its draws.
        examples: training examples that members are scored on.
        memory_bytes: bound on what a pass holds beyond the model.
    """

    settings: Settings
    seed: int
    task: str
    point: str
    weights: str
    content: str
    region: str
    examples: int
    memory_bytes: int


@dataclass(frozen=True)
class MemberChunk:
    """Some members of one generation, whose losses go to a file of their own.

    Attributes:
        needs: the file of the point, made by `write_point`.
        file: where the losses go.
        per_pass: members per forward pass; a piece begins where a pass of its generation does, so that every pass has
            the same members, and every loss the same bits, as in one process.
    """

    place: Place
    needs: Path
    file: Path
    label: str
    draws: Draws
    per_pass: int

    @property
    def settings(self) -> Settings:
        """Whose threads and device it takes."""
        return self.place.settings

    @property
    def seed(self) -> int:
        """Of its problem."""
        return self.place.seed

    @property
    def key(self) -> Path:
        """The file of its losses."""
        return self.file

    def execute(self, progress: Progress, ready: Problem | None = None) -> None:
        """Score the members; the model is kept for the next piece of the same search.

        Raises:
            LineamentError: this process cannot make the model, or makes another one than the search's.
        """
        desk = _desk(self.place, self.needs, progress)
        progress("scoring", 0, len(self.draws))
        losses = desk.population.score(self.draws.members(desk.maker), self.per_pass).losses
        write_json(self.file, losses_body(losses))

    def elsewhere(self, folder: Path) -> MemberChunk:
        """Return the same piece with both of its files in another folder."""
        return replace(self, needs=folder / self.needs.name, file=folder / self.file.name)

    def files(self) -> Mapping[str, bytes]:
        """Return the one file, if it is there."""
        return {self.file.name: read_bytes(self.file)} if self.file.exists() else {}

    def keep(self, files: Mapping[str, bytes]) -> None:
        """Write the one file."""
        for content in files.values():
            write_bytes(self.file, content)

    def note(self, status: str, message: str | None = None, details: str | None = None, **more: float) -> None:
        """Write into the search's log, and only what went wrong."""
        folder = RunFolder(self.file.parents[1])
        if message:
            folder.log(f"{self.label} {status}: {message}")
        if details:
            folder.log(details)


def losses_body(losses: np.ndarray) -> dict[str, object]:
    """Return what a file of losses holds; a failed member is null."""
    return {"schema": 1, "losses": [float(x) if np.isfinite(x) else None for x in losses]}


def read_losses(file: Path) -> np.ndarray:
    """Read the losses of such a file; a failed member is nan. `InputError` for a damaged one."""
    body = read_ours(file, {1: "losses"}, "Delete it: these members are scored again.")
    return np.array([np.nan if x is None else x for x in body["losses"]], dtype=float)


def write_point(file: Path, problem: Problem, region: Region) -> str:
    """Write the measured parameters as they stand, and the region's basis, for workers that start from them.

    A basis goes in single precision, in which members are made. That it is not made again spares every worker the
    gradients or recordings it came of, and its last bits do not depend on another machine.

    Returns:
        Hash of the file.
    """
    basis = {} if region.basis is None else {"columns": region.basis.columns.to(torch.float32).contiguous()}
    content = save({"theta": problem.parameters.read().cpu(), **basis})
    write_bytes(file, content)
    return hashlib.blake2b(content, digest_size=8).hexdigest()


@dataclass(frozen=True)
class _Desk:
    """A loaded model with its batch and region."""

    place: Place
    population: Population
    maker: MemberMaker


# The desk of this process's last piece: the next one is mostly of the same search.
_KEPT: list[_Desk] = []


def _desk(place: Place, point: Path, progress: Progress) -> _Desk:
    if not _KEPT or _KEPT[0].place != place:
        _KEPT.clear()  # two models need not fit
        _KEPT.append(_made(place, point, progress))
    return _KEPT[0]


def _made(place: Place, point: Path, progress: Progress) -> _Desk:
    problem, stored = make_problem(place.settings, place.seed, progress), load_tensors(point)
    problem.parameters.write(stored["theta"])
    if (made := problem.model_hash()) != place.weights:
        raise LineamentError(
            f"a worker made another model (hash {made}) than the one that is searched (hash {place.weights}): every "
            "node needs the same model files."
        )
    columns = stored.get("columns")
    # A copy lies where torch aligns its tensors; products with the file's own bytes may differ in their last bits.
    basis = None if columns is None else Basis(columns.clone(), problem.parameters.space, place.region)
    target = Target(problem, place.task, place.settings, place.seed, place.point)
    population = Population(problem, target.batch(place.examples, "selection"), memory_bytes=place.memory_bytes)
    region = Region(place.region, problem.parameters, basis)
    return _Desk(place, population, MemberMaker(region, target.streams))
