"""A folder of results, opened: of a run, of `lineament.measure`, of an analysis, or of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lineament.claims.claims_file import claim_from, read_claims, read_sweep
from lineament.claims.registry import evaluate_claims
from lineament.claims.verdict import Claim
from lineament.errors import InputError, unknown_name
from lineament.files.folders import IDENTITY, is_marked
from lineament.records import Record, load_records
from lineament.report.figures import Figure, figure_titles, named_figure, sweep_pictures
from lineament.report.page import headline_rank, render
from lineament.report.sweep.page import render_sweep
from lineament.report.verdict_table import verdict_table
from lineament.report.verdicts import verdict_counts
from lineament.results.results import PAGE, Results, write_page
from lineament.results.tables import data_frame
from lineament.runs.folder import RunFolder
from lineament.runs.sweep.folder import SweepFolder
from lineament.runs.sweep.table import varied_columns
from lineament.settings.keys import KEYS


@dataclass(frozen=True, repr=False)
class Run(Results):
    """The results in a folder, as they were when it was opened.

    Attributes:
        path: the folder.
    """

    path: Path = field(kw_only=True)

    def report(self, path: Path | str | None = None) -> Path:
        """Write the report with configuration and provenance, from what the folder holds now; return its path.

        Args:
            path: the page, or a folder that is there; by default `report.html` in the folder that was opened.

        Raises:
            InputError: a file is missing or damaged by now.
            LineamentError: the disk refuses to write.
        """
        return write_page(render(self.path), self.path / PAGE if path is None else Path(path))

    def _title(self) -> str:
        return f"{str(self.path)!r} {super()._title()}"


@dataclass(frozen=True, repr=False)
class Sweep:
    """The results of a sweep, as they were when it was opened; the records of its cells are read when asked for.

    Attributes:
        path: the folder.
        claims: cell -> its verdicts over seeds.
        body: the whole of sweep.json, with paired differences and failed jobs.
    """

    path: Path
    claims: Mapping[str, tuple[Claim, ...]]
    body: Mapping[str, Any]

    def __repr__(self) -> str:
        """Say what this is in a few lines."""
        jobs, verdicts = self.body["jobs"], [claim.verdict for claims in self.claims.values() for claim in claims]
        return "\n".join(
            [
                f"Sweep {str(self.path)!r}",
                f"  cells: {len(self.claims)}, varied: {', '.join(item['key'] for item in self.body['vary'])}",
                f"  jobs: {jobs['done']} of {jobs['planned']} done, {jobs['failed']} failed",
                f"  claims: {verdict_counts(verdicts) or 'none'}",
            ]
        )

    def _repr_html_(self) -> str:
        """Return the table of verdicts of all cells, which notebooks show."""
        pairs = [(cell, claim) for cell, claims in self.claims.items() for claim in claims]
        return verdict_table(str(self.path), pairs)

    @property
    def records(self) -> tuple[Record, ...]:
        """Every record of every cell, without arrays."""
        return tuple(record for _, records in self._by_cell() for record in records)

    @property
    def figures(self) -> Mapping[str, str]:
        """Name -> title of every figure that `plot` draws: claims, and CLAIM-2 where one has two."""
        return figure_titles(sweep_pictures(self.body))

    def cell(self, name: str) -> Run:
        """Open the run of one cell; `claims` names them.

        Raises:
            InputError: there is no such cell, or it has no records yet.
        """
        if name not in self.claims:
            raise unknown_name("cell", name, self.claims, str(self.path))
        folder = SweepFolder(self.path)
        return _opened(next(folder.run(cell).path for cell in folder.grid().cells() if cell.name == name))

    def plot(self, name: str, target: str | None = None) -> Figure:
        """Draw what a claim measures along every varied key, as the sweep's report does.

        Args:
            name: a claim, e.g. `prefix_captures`; `figures` lists them.
            target: which target's; needed where several have the claim.

        Raises:
            InputError: there is no such figure or target (the nearest is named), or several targets have it.
        """
        return named_figure(sweep_pictures(self.body), name, target)

    def to_pandas(self) -> Any:
        """Return a pandas.DataFrame of all cells: their name, the varied keys, and the columns of a run's.

        Raises:
            InputError: pandas is not installed, or a record was damaged since.
        """
        return data_frame(self._by_cell())

    def report(self, path: Path | str | None = None) -> Path:
        """Write the sweep's report from what the folder holds now; return its path.

        Args:
            path: the page, or a folder that is there; by default `report.html` in the folder that was opened.

        Raises:
            InputError: a file is missing or damaged by now.
            LineamentError: the disk refuses to write.
        """
        page = render_sweep(self.path, {name: key.meaning for name, key in KEYS.items()})
        return write_page(page, self.path / PAGE if path is None else Path(path))

    def _by_cell(self) -> list[tuple[Mapping[str, Any], list[Record]]]:
        folder = SweepFolder(self.path)
        return [
            (varied_columns(cell), load_records(folder.run(cell).records, with_arrays=False))
            for cell in folder.grid().cells()
        ]


def open_run(path: Path | str) -> Run | Sweep:
    """Open a folder of results: what `lineament run`, `sweep`, `analyze` or `compose`, or `lineament.measure` wrote.

    Nothing is written. Verdicts are those of the folder; where there are none yet, they are judged from the records.

    Returns:
        A `Sweep` of a sweep's folder, a `Run` of any other.

    Raises:
        InputError: there is no such folder, it holds no records, or a file in it is damaged.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder. Give one that `lineament run` or `lineament sweep` wrote.")
    sweep = SweepFolder(folder)
    if not sweep.config.exists():
        return _opened(folder)
    sweep.grid()  # damaged ones are refused here
    body = read_sweep(folder)
    claims = {cell["name"]: tuple(map(claim_from, cell["claims"])) for cell in body["cells"]}
    return Sweep(folder, claims, body)


def _opened(folder: Path) -> Run:
    records = load_records(folder / "records")
    if not records:
        raise InputError(
            f"{folder} holds no records. Give the folder of a run, a sweep or an analysis, or the `out` of "
            "lineament.measure."
        )
    of_settings = RunFolder(folder).config.exists() or (folder / IDENTITY).exists()
    rank = RunFolder(folder).headline_rank() if of_settings else headline_rank(folder)
    return Run(tuple(records), tuple(_claims(folder, records, rank)), rank, path=folder)


def _claims(folder: Path, records: list[Record], rank: int) -> list[Claim]:
    if (folder / "claims.json").exists():
        return read_claims(folder)
    return [] if is_marked(folder, "analysis") or is_marked(folder, "composition") else evaluate_claims(records, rank)
