"""The folder of a sweep: its grid, its lock, and a run folder for every cell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import tomli_w

from lineament.errors import InputError
from lineament.files.folders import require_unused, require_writable
from lineament.files.writing import delete_leftovers, write_bytes, write_json
from lineament.runs.folder import CELLS, EXTENDING, SWEEP_FILE, RunFolder, differences, provenance, spanned
from lineament.runs.sweep.grid import Cell, Grid, grid_file, make_grid
from lineament.settings.plain import flattened, to_dict
from lineament.settings.reading import updated
from lineament.settings.settings import Settings


@dataclass(frozen=True)
class SweepFolder:
    """Paths inside a sweep's folder."""

    path: Path

    @property
    def config(self) -> Path:
        """The base configuration and the grid; `lineament sweep` takes it as its CONFIG."""
        return self.path / SWEEP_FILE

    @property
    def shared(self) -> Path:
        """Operating points that several cells share, one file for each and seed."""
        return self.path / "shared"

    @property
    def records_table(self) -> Path:
        """Every quantity of every record, one row each."""
        return self.path / "records.parquet"

    @property
    def claims_table(self) -> Path:
        """Every claim of every cell over its seeds, one row each."""
        return self.path / "claims.parquet"

    @property
    def results(self) -> Path:
        """Cells, claims, paired differences and failed jobs: all that the report shows."""
        return self.path / "sweep.json"

    def run(self, cell: Cell) -> RunFolder:
        """Return the run folder of one cell."""
        return RunFolder(self.path / CELLS / cell.name)

    def grid(self) -> Grid:
        """Read the grid the sweep was made with; `InputError` if this is no sweep."""
        if not self.config.exists():
            raise InputError(f"{self.path} is no sweep: it has no sweep.toml.")
        return read_grid(self.config)

    def check(self, grid: Grid, resume: bool) -> None:
        """Refuse, before anything is written, a folder that this grid may not go to.

        Raises:
            InputError: the folder holds another sweep (the difference is named), holds this one and `resume` was not
                asked for, holds something else, or cannot be written to.
        """
        if self.config.exists():
            self._require_same(grid)
            if not resume:
                raise InputError(f"{self.path} already holds this sweep. Add --resume to go on with it or extend it.")
        else:
            require_unused(self.path)
        require_writable(self.path)

    def open(self, grid: Grid, resume: bool) -> Grid:
        """Create the folder for this grid, or take it up again, under its lock; returns the grid with all it holds.

        Seeds, measurements and values that the folder holds already stay in it.
        """
        self.check(grid, resume)
        delete_leftovers(self.path)
        whole = self._extended(grid)
        write_bytes(self.config, tomli_w.dumps(whole.to_dict()).encode())
        if not (self.path / "provenance.json").exists():
            write_json(self.path / "provenance.json", provenance(grid.base))
        return whole

    def _require_same(self, grid: Grid) -> None:
        held = self.grid()
        old = dict(flattened(to_dict(held.base)))
        new = {key: value for key, value in flattened(to_dict(grid.base)) if key not in EXTENDING}
        changed = differences(old, new)
        if not changed and list(held.vary) != list(grid.vary):
            changed = f"varied keys: {', '.join(held.vary)} there, {', '.join(grid.vary)} now"
        if changed:
            raise InputError(
                f"{self.path} holds another sweep ({changed}). Choose another --out, or the same configuration to "
                "continue it."
            )

    def _extended(self, grid: Grid) -> Grid:
        if not self.config.exists():
            return grid
        held = self.grid()
        vary = {key: tuple(dict.fromkeys([*held.vary[key], *values])) for key, values in grid.vary.items()}
        return replace(grid, base=spanned(held.base, grid.base, self.path), vary=vary)


def read_grid(path: Path) -> Grid:
    """Read the grid of a sweep.toml that a sweep wrote: every key is there."""
    base, vary = grid_file(path)
    return make_grid(updated(Settings(), base, str(path)), vary, str(path))
