"""Flags of the commands that read what is there: report, claims, runs, compare, export, cache and keys."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class Report:
    """Write report.html again from a run's records; needs no model."""

    run: tyro.conf.Positional[Path]
    """run folder"""


@dataclass(frozen=True)
class Claims:
    """Print a run's verdicts."""

    run: tyro.conf.Positional[Path]
    """run folder"""
    json: bool = False
    """print claims.json instead of a table"""


@dataclass(frozen=True)
class Runs:
    """List the runs below a folder."""

    root: tyro.conf.Positional[Path] = Path("runs")
    """folder to look in"""


@dataclass(frozen=True)
class Compare:
    """Show two runs' claims side by side, and the settings in which they differ."""

    first: tyro.conf.Positional[Path]
    """run folder"""
    second: tyro.conf.Positional[Path]
    """run folder"""


@dataclass(frozen=True)
class Export:
    """Print every quantity of a run, one row each."""

    run: tyro.conf.Positional[Path]
    """run folder"""
    csv: bool = False
    """as CSV"""


@dataclass(frozen=True)
class Cache:
    """List or delete cached models: trained base models, and GGUF models made plain."""

    action: tyro.conf.Positional[Literal["list", "clear"]] = "list"
    """list or clear"""


@dataclass(frozen=True)
class Keys:
    """List every settings key with its default, type, range, unit and meaning."""
