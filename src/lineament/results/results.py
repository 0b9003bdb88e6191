"""What was measured, to look at in a notebook: verdicts, figures of the report, and a table for data frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lineament.claims.verdict import Claim
from lineament.errors import InputError
from lineament.files.writing import write_bytes
from lineament.records import Record, target_words
from lineament.report.figures import Figure, figure_titles, named_figure, run_pictures
from lineament.report.page import DEFAULT_RANK, render_records
from lineament.report.verdict_table import verdict_table
from lineament.report.verdicts import verdict_counts
from lineament.results.tables import data_frame

PAGE = "report.html"
MAX_NAMES, MAX_LETTERS = 6, 60


@dataclass(frozen=True, repr=False)
class Results:
    """What was measured: `records` with every quantity, `claims` with the verdicts over seeds.

    Attributes:
        headline_rank: the rank that claims were judged at; figures show it.
    """

    records: tuple[Record, ...]
    claims: tuple[Claim, ...]
    headline_rank: int = DEFAULT_RANK

    def __repr__(self) -> str:
        """Say what this is in a few lines."""
        return "\n".join([f"{type(self).__name__} {self._title()}", *summary(self.records, self.claims)])

    def _repr_html_(self) -> str:
        """Return the table of verdicts, which notebooks show; what comes from outside is escaped."""
        return verdict_table(self._title(), [("", claim) for claim in self.claims])

    @property
    def figures(self) -> Mapping[str, str]:
        """Name -> title of every figure that `plot` draws."""
        return figure_titles(run_pictures(self.records, self.headline_rank))

    def plot(self, name: str, target: str | None = None) -> Figure:
        """Draw one of the report's figures, e.g. `capture`; `figures` lists them.

        Args:
            target: which target's; needed where several have the figure.

        Raises:
            InputError: there is no such figure or target (the nearest is named), or several targets have it.
        """
        return named_figure(run_pictures(self.records, self.headline_rank), name, target)

    def to_pandas(self) -> Any:
        """Return a pandas.DataFrame, one row for each quantity, with the columns of `lineament export --csv`.

        These are measurement, target, seed, quantity, one column for each label (a label with the name of another
        column is `label.NAME`), value, stderr, null, blind, ceiling, unit, reason. Units stand in `unit`.

        Raises:
            InputError: pandas is not installed.
        """
        return data_frame([({}, self.records)])

    def report(self, path: Path | str) -> Path:
        """Write the report, one self-contained HTML page; return its path.

        Args:
            path: the page, or a folder that is there, for `report.html` in it.

        Raises:
            InputError: nothing was measured.
            LineamentError: the disk refuses to write.
        """
        if not self.records:
            raise InputError("nothing was measured, so there is no report. Measure something first.")
        page = render_records(self.records, self.claims, self.headline_rank)
        return write_page(page, Path(path))

    def _title(self) -> str:
        return f"of {_short(self.records[0].model)}" if self.records else "without records"


def write_page(page: str, path: Path) -> Path:
    """Write a page under this path, or as `report.html` in a folder that is there; return where."""
    file = path / PAGE if path.is_dir() else path
    write_bytes(file, page.encode())
    return file


def summary(records: Sequence[Record], claims: Sequence[Claim]) -> list[str]:
    """Say in a few short lines what was measured and judged, whatever names are given."""
    seeds = len({record.seed for record in records})
    return [
        f"  records: {len(records)}, of {seeds} {'seed' if seeds == 1 else 'seeds'}",
        f"  targets: {_listed(target_words(record.target) for record in records)}",
        f"  measurements: {_listed(record.measurement for record in records)}",
        f"  claims: {verdict_counts(claim.verdict for claim in claims) or 'none'}",
    ]


def _listed(names: Iterable[str]) -> str:
    distinct = list(dict.fromkeys(names))
    more = f" and {len(distinct) - MAX_NAMES} more" if len(distinct) > MAX_NAMES else ""
    return ", ".join(map(_short, distinct[:MAX_NAMES])) + more


def _short(name: str) -> str:
    """Return a name that no terminal takes for anything else, cut where it is long."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in name)
    return plain if len(plain) <= MAX_LETTERS else f"{plain[: MAX_LETTERS - 3]}..."
