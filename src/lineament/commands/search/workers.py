"""A search's generations over the workers of a pool: cut into pieces, carried out, put together in their order."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lineament.commands.search.chunks import MemberChunk, Place, read_losses, write_point
from lineament.commands.search.methods import Generation
from lineament.commands.search.target import Target
from lineament.errors import LineamentError
from lineament.files.writing import delete_leftovers
from lineament.population.population import Population
from lineament.population.region import Region
from lineament.runs.executors.driver import Driver
from lineament.runs.executors.options import ExecutorOptions
from lineament.runs.executors.pool import Pool
from lineament.settings.reading import updated
from lineament.settings.settings import Settings

# More pieces than workers, so that a slow worker gets fewer, and a lost one loses less.
PIECES_PER_WORKER = 2
PART = re.compile(r"[0-9]{5,}-part-[0-9]{5,}-[0-9]{5,}\.json")


@dataclass(frozen=True)
class Workers:
    """Scores generations on a pool, to the same bits as in this process.

    Attributes:
        place: what every piece has in common.
        point: file of the point and the region's basis.
        generations: folder of the search's generations; the pieces' files lie there until they are put together.
        per_pass: members per forward pass.
        size: workers that may be busy at once.
    """

    pool: Pool
    options: ExecutorOptions
    place: Place
    point: Path
    generations: Path
    per_pass: int
    size: int

    def score(self, number: int, generation: Generation, report: Callable[[int], None]) -> np.ndarray:
        """Score a generation's members; the losses of failed ones are nan.

        Args:
            report: called with the count of members that are scored.

        Raises:
            LineamentError: a piece was given up; every earlier generation stays.
        """
        chunks = self._chunks(number, generation)
        n_scored = 0

        def count(chunk: MemberChunk) -> None:
            nonlocal n_scored
            n_scored += len(chunk.draws)
            report(n_scored)

        failures = Driver(chunks, self.options, _unseen, after=count).run(self.pool)
        if failures:
            raise LineamentError(
                f"{failures[0].task.label} could not be scored: {failures[0].message}. Generations that were scored "
                "stay; remove the cause, then --resume."
            )
        losses = np.concatenate([read_losses(chunk.file) for chunk in chunks])
        for chunk in chunks:
            chunk.file.unlink()
        return losses

    def _chunks(self, number: int, generation: Generation) -> list[MemberChunk]:
        chunks = []
        for start, stop in pieces(len(generation.draws), self.per_pass, PIECES_PER_WORKER * self.size):
            file = self.generations / f"{number:05d}-part-{start:05d}-{stop:05d}.json"
            label = f"generation {number}, members {start} to {stop - 1}"
            draws = generation.draws.part(start, stop)
            chunks.append(MemberChunk(self.place, self.point, file, label, draws, self.per_pass))
        return chunks


def pieces(n: int, per_pass: int, most: int) -> Sequence[tuple[int, int]]:
    """Cut n members into at most `most` (start, stop), each a whole number of passes, as equal as that allows."""
    n_passes = -(-n // per_pass)
    cuts = [per_pass * round(n_passes * i / min(most, n_passes)) for i in range(min(most, n_passes))]
    return list(zip(cuts, [*cuts[1:], n], strict=True))


def workers_settings(target: Target) -> Settings:
    """Return settings that any worker can take: the target's, on its own device, with absolute paths."""
    model, data = target.settings.model, target.settings.task.data
    paths = {"model.adapter": model.adapter, "model.adapter_start": model.adapter_start, "task.data": data}
    if "/" in model.name:  # other names may be those of packaged models
        paths["model.name"] = model.name
    whole = {key: str(Path(path).absolute()) for key, path in paths.items() if path and Path(path).exists()}
    return updated(target.settings, {"device": target.problem.device.type, **whole}, "the target")


@contextmanager
def spread(
    pool: Pool, executor: ExecutorOptions, target: Target, region: Region, population: Population, out: Path
) -> Iterator[Workers]:
    """Lend the pool's workers to a search in folder `out`; what only they need is deleted when the block ends.

    Args:
        population: scores members in this process; pieces are cut where it cuts passes.
    """
    point, generations, problem = out / "point.safetensors", out / "generations", target.problem
    per_pass = population.per_pass(region.members(target.streams, [0], 1.0))
    _tidy(point, generations)  # of a search that was killed
    try:
        place = Place(
            settings=workers_settings(target),
            seed=target.seed,
            task=target.task,
            point=target.point,
            weights=problem.model_hash(),
            content=write_point(point, problem, region),
            region=region.name,
            examples=len(population.batch),
            memory_bytes=population.memory_bytes,
        )
        yield Workers(pool, executor, place, point, generations, per_pass, max(1, pool.free()))
    finally:
        _tidy(point, generations)


def _tidy(point: Path, generations: Path) -> None:
    point.unlink(missing_ok=True)
    for part in generations.glob("*-part-*.json"):
        if PART.fullmatch(part.name):
            part.unlink(missing_ok=True)
    delete_leftovers(generations)


def _unseen(label: str, what: str, done: int, total: int) -> None:
    """Show nothing of a piece's own progress: the count of scored members is shown."""
