"""Flags of the commands that read what is there: report, claims, runs, compare, export, cache and keys."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lineament.command_line.markers import Positional


@dataclass(frozen=True)
class Report:
    """Write report.html again from records, and its pictures as files; needs no model and no browser."""

    run: Positional[Path]
    """folder of a run, a sweep, an analysis or a composition"""
    figures: Path | None = None
    """also write every picture of the report into this folder, as SVG and PNG with title and caption; other files in it
    stay"""
    figure_kind: Literal["svg", "png"] | None = None
    """write pictures of this kind alone; default both"""
    quiet: bool = False
    """show no progress"""
    debug: bool = False
    """show tracebacks"""


@dataclass(frozen=True)
class Claims:
    """Print a run's verdicts."""

    run: Positional[Path]
    """run folder"""
    json: bool = False
    """print claims.json instead of a table"""


@dataclass(frozen=True)
class Runs:
    """List the runs below a folder, and sweeps, analyses, compositions, searches, recordings and what measure left."""

    root: Positional[Path] = Path("runs")
    """folder to look in"""


@dataclass(frozen=True)
class Compare:
    """Show two runs' claims side by side, and the settings in which they differ."""

    first: Positional[Path]
    """folder of a run, of a sweep's cell or of `lineament.measure`"""
    second: Positional[Path]
    """folder of another one"""


@dataclass(frozen=True)
class Export:
    """Print every quantity of a run, one row each."""

    run: Positional[Path]
    """run folder"""
    csv: bool = False
    """as CSV"""


@dataclass(frozen=True)
class Cache:
    """List or delete cached models: trained base models, and GGUF models made plain."""

    action: Positional[Literal["list", "clear"]] = "list"
    """list or clear"""


@dataclass(frozen=True)
class Keys:
    """List every settings key with its default, type, range, unit and meaning."""
